"""A GPU for each local worker of a teacher pass.

Imports Dask, which a pass in one process does without.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from distributed import Worker, WorkerPlugin

from distillery.device import choose_device

VISIBLE = "CUDA_VISIBLE_DEVICES"


class OneGPU(WorkerPlugin):
    """Shows each worker one GPU alone, in turn, also when it was started again after a death.

    It is set before a worker's first partition, and CUDA reads it when it is first used. So
    `device: cuda` is another GPU in each, for PyTorch as for every other library.
    """

    name = "one-gpu"

    def __init__(self, gpus: Sequence[str]) -> None:
        """Prepare to share GPUs out.

        Args:
            gpus: as CUDA_VISIBLE_DEVICES names them.
        """
        self.gpus = tuple(gpus)

    def setup(self, worker: Worker) -> None:
        """Choose by the worker's name, which is its number from 0."""
        os.environ[VISIBLE] = self.gpus[int(str(worker.name)) % len(self.gpus)]


def gpus_of(device: str) -> list[str]:
    """Return the GPUs that local workers share, as CUDA_VISIBLE_DEVICES names them.

    Args:
        device: of the settings; where it names a GPU by its number, all take that one.

    Raises:
        ModelError: a GPU is asked for and is not there.
    """
    if choose_device(device) != "cuda":
        return []
    if visible := os.environ.get(VISIBLE):
        return [name.strip() for name in visible.split(",")]
    return [str(number) for number in range(torch.cuda.device_count())]
