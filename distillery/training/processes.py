"""The processes that train one network together: what each takes, and what all must know.

Each takes its share of every batch. What they add up is the batch's loss and the batch's gradient,
so the number of processes changes a training by rounding alone. DistributedDataParallel averages
the gradients; here is the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from distillery.device import choose_device, choose_precision
from distillery.errors import ModelError
from distillery.models.layers import Dropout, Network
from distillery.models.share import Share, taking
from distillery.params.training import TrainingParams
from distillery.training.shared_batch_norm import share_batch_norms

CPU = "cpu"
SETTING = "training.num_processes"
SEEDS = 2**32


@dataclass(frozen=True)
class Processes:
    """Those that train one network, as one of them sees them."""

    count: int = 1
    """Of those that train."""
    rank: int | None = 0
    """This one's number among them; None: it waits for them, and trains nothing."""

    @classmethod
    def wanted(cls, count: int) -> Processes:
        """Return what a stage is for so many: the one, or the one that waits for several."""
        return cls(count, 0 if count == 1 else None)

    @property
    def are_several(self) -> bool:
        """Whether this process trains with others."""
        return self.count > 1 and self.rank is not None

    @property
    def waits(self) -> bool:
        """Whether this process waits for those that train."""
        return self.rank is None

    @property
    def writes(self) -> bool:
        """Whether files and progress are this process's business."""
        return not self.rank

    def curves(self, path: Path) -> Path:
        """Return the file that learning curves go to: of who does not write, the one of nobody."""
        return path if self.writes else Path(os.devnull)

    def hardware(self, params: TrainingParams) -> tuple[str, str]:
        """Return this process's device and precision: a GPU each, or the CPU for all.

        Raises:
            ModelError: there is no GPU for each.
        """
        device = choose_device(params.device)
        if self.count > 1 and device != CPU:
            if device != "cuda":
                raise ModelError(
                    f"{SETTING} is {self.count}, and device names one GPU, {device!r}; set device "
                    f"to 'auto' or {SETTING} to 1"
                )
            if (shown := torch.cuda.device_count()) < self.count:
                raise ModelError(
                    f"{SETTING} is {self.count}, this machine shows {shown} GPUs, expected one for "
                    f"each process; set {SETTING} to {shown} or lower, or device to 'cpu'"
                )
            device = f"cuda:{self.rank or 0}"
        precision = choose_precision(params.precision, device)
        return (CPU, "fp32") if self.waits else (device, precision)

    def share_of(self, num_rows: int) -> Share | None:
        """Return this process's rows of a batch; None where it has them all."""
        if not self.are_several:
            return None
        rows = range(num_rows)[self.rank :: self.count]
        return Share(rows, num_rows) if rows else Share([0], num_rows, counts=False)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return sums over all processes, of numbers that each knows its own of."""
        if not self.are_several:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        found: list[float] = summed.tolist()
        return found

    def joined(self, network: Network, device: str) -> nn.Module:
        """Return a network that averages its gradients with those of the other processes.

        Args:
            network: is in training mode afterwards, its batch normalisations shared.
            device: of this process.
        """
        if not self.are_several:
            return network
        share_batch_norms(network.train())
        return DistributedDataParallel(
            network,
            device_ids=None if device == CPU else [torch.device(device)],
            broadcast_buffers=False,  # they are equal
            find_unused_parameters=network.may_leave_layers_out,
        )

    @contextmanager
    def drawing(self, share: Share | None, noise: Sequence[int] | None = None) -> Iterator[None]:
        """Let the block draw at random for this process's rows.

        Args:
            share: these rows; None: all.
            noise: None where the block draws for the whole batch, alike in all processes; else
                what its draws are to depend on, besides the process.
        """
        if share is None or noise is None:
            with taking(share):
                yield
            return
        assert self.rank is not None
        entropy = [number % SEEDS for number in (*noise, self.rank)]
        state = torch.get_rng_state()
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        try:
            with taking(share):
                yield
        finally:
            torch.set_rng_state(state)

    def loss_of_all(
        self, terms: Mapping[str, Tensor], num_counted: float, cpu_seconds: float
    ) -> tuple[Tensor, dict[str, Tensor], float]:
        """Return what several processes minimise, where each has terms of its own rows.

        Args:
            terms: means over this process's utterances by name, `loss` among them, each `()`.
            num_counted: utterances that they are means over.
            cpu_seconds: that this process computed.

        Returns:
            This process's part of the loss, whose gradients average to those of the whole batch's;
            the whole batch's terms; CPU seconds of all.
        """
        own = [float(term.detach()) * num_counted for term in terms.values()]
        spent, total, *summed = self.sums([cpu_seconds, num_counted, *own])
        total = max(total, 1.0)
        loss = terms["loss"] * (num_counted * self.count / total)
        means = [torch.tensor(value / total, dtype=torch.float64) for value in summed]
        return loss, dict(zip(terms, means, strict=True)), spent


ALONE = Processes()


def draws_by_rows(network: nn.Module, device: str) -> bool:
    """Return whether all that a network draws, it draws for whole batches, see models/share.py.

    Not so on GPUs, and not so where a published network or a library's layers have dropout.
    """
    for module in network.modules():
        if isinstance(module, Dropout) and device == CPU:
            continue
        if isinstance(module, _DropoutNd) and module.p > 0:
            return False
        if (share := getattr(module, "dropout", 0.0)) and isinstance(share, float):
            return False  # of attention, which has no module for it
    return True
