"""What an epoch costs on a GPU, in fp32 and in mixed precision, and how busy the GPU is.

    python -m benchmarks.gpu_epoch [--source FSDD] [--rounds 5]

Without a GPU it says so and writes nothing. Epochs are the trainer's own, on FSDD from the teacher
cache; wall time, medians of rounds after a warm-up. Utilisation is the share of time in which
kernels ran, sampled by nvidia-smi during these rounds. Rows go to
benchmarks/results/gpu_epoch.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import report, row
from benchmarks.digits import TRAINING, Digits, Epoch, recordings

PRECISIONS = ("fp32", "bf16")
SAMPLE_MS = 100
NVIDIA_SMI = "nvidia-smi"
QUERY = "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop-ms={SAMPLE_MS}"


@contextmanager
def sampled_utilisation() -> Iterator[list[float]]:
    """Yield a list that holds the first GPU's utilisation, in per cent, once the block ended."""
    samples: list[float] = []
    if shutil.which(NVIDIA_SMI) is None:
        yield samples
        return
    command = [NVIDIA_SMI, "--id=0", *QUERY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield samples
        finally:
            process.terminate()
            samples += utilisations(process.communicate()[0])


def utilisations(output: str) -> list[float]:
    """Return the numbers in nvidia-smi's lines; it writes words where it knows none."""
    return [float(line) for line in output.split("\n") if line.strip().isdigit()]


def epoch_row(digits: Digits, device: Any, precision: Any, rounds: int) -> dict[str, Any]:
    """Return the row of one precision."""
    training = TRAINING.model_copy(update={"device": device, "precision": precision})
    epoch = Epoch(digits, digits.training_set(digits.cached()), training=training)
    epoch()
    seconds = []
    with sampled_utilisation() as samples:
        for _ in range(rounds):
            started = time.perf_counter()
            epoch()
            seconds.append(time.perf_counter() - started)
    busy = f"{statistics.mean(samples):.0f} % on average" if samples else "unknown"
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return row(
        f"epoch on {device}, {precision}",
        statistics.median(seconds),
        "seconds",
        None,
        None,
        f"{name}, utilisation {busy}; last loss {epoch.losses[-1]:.3f}; {digits.description}",
    )


def measure(
    source: Path, folder: Path, rounds: int, device: str = "cuda", **sizes: Any
) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    digits = Digits.fsdd(source, folder, **sizes)
    digits.cache_pass()
    return [epoch_row(digits, device, precision, rounds) for precision in PRECISIONS]


def main() -> None:
    """Measure, print and write the rows, where there is a GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of FSDD; holds recordings/")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: this machine shows no GPU")
        return
    source = recordings(arguments.source)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(source, Path(folder), arguments.rounds)
    report("gpu_epoch", rows)


if __name__ == "__main__":
    main()
