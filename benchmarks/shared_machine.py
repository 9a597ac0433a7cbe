"""What a training loses where other work begins after its start: steps a CPU second.

    python -m benchmarks.shared_machine [--seconds 12] [--busy 0 2 8] [--rounds 3]

A process trains the demo's student, or its teacher, on batches of random features for a while. Some
seconds after its start other processes begin that do nothing but use the processor. Ways to train
that are compared: one thread; two threads that spin while they wait for one another, as OpenMP's
do by default; two that sleep at once; two that spin for a few microseconds first; and two processes
of one thread each side by side. All ways take their turn in every round, at every load. Rows go to
benchmarks/results/shared_machine.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

from benchmarks.common import ROOT, report, row
from distillery.params.models import ConvBiLSTMParams, SeparableConvParams

GOAL = 0.8
"""Least steps a CPU second beside busy processes, as a share of those alone."""
START_SECONDS = 2.0
BATCH, FRAMES, NUM_MELS, NUM_TOKENS = 32, 200, 40, 29
MODELS = ("student", "teacher")
STUDENT = SeparableConvParams(type="separable_conv", channels=96, num_blocks=4)
TEACHER = ConvBiLSTMParams(type="conv_bilstm", hidden_size=192, num_layers=2, dropout=0.2)
WAYS: dict[str, tuple[int, dict[str, str], int]] = {
    "one thread": (1, {}, 1),
    "two threads that spin": (2, {}, 1),
    "two threads that sleep": (2, {"OMP_WAIT_POLICY": "passive"}, 1),
    "two threads that spin briefly": (2, {"GOMP_SPINCOUNT": "1000"}, 1),
    "two processes of one thread": (1, {}, 2),
}
"""By name: threads, environment variables, processes."""


class Speed(TypedDict):
    """What a training did in the time that was measured."""

    steps: float
    cpu_seconds: float


def train(model: str, num_threads: int, seconds: float) -> None:
    """Be the process that trains: print steps and CPU seconds of the time after the start."""
    import torch

    from distillery.architectures.known import STUDENTS, TEACHERS

    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    network: torch.nn.Module
    if model == "student":
        network = STUDENTS["separable_conv"](STUDENT, NUM_MELS, NUM_TOKENS)
    else:
        network = TEACHERS["conv_bilstm"](TEACHER, NUM_MELS, NUM_TOKENS)
    features = torch.randn(BATCH, FRAMES, NUM_MELS)
    lengths = torch.full((BATCH,), FRAMES)
    optimiser = torch.optim.AdamW(network.parameters(), fused=True)
    steps, begun, used = 0, 0.0, 0.0
    start = time.monotonic()
    while time.monotonic() < start + START_SECONDS + seconds:
        if not begun and time.monotonic() > start + START_SECONDS:
            steps, begun, used = 0, time.monotonic(), time.process_time()
        scores, _ = network(features, lengths)
        scores.log_softmax(dim=-1)[..., 0].mean().neg().backward()
        optimiser.step()
        optimiser.zero_grad()
        steps += 1
        if steps == 1 and not begun:
            print("begun", flush=True)
    measured = time.monotonic() - begun
    speed: Speed = {"steps": steps / measured, "cpu_seconds": time.process_time() - used}
    print(json.dumps({**speed, "cpu_seconds": speed["cpu_seconds"] / measured}))


@contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """Keep processes busy until the block ends."""
    code = "while True: pass"
    others = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(num_processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(model: str, way: str, num_busy: int, seconds: float) -> Speed:
    """Return steps a second and CPU seconds a second of one way at one load."""
    threads, variables, count = WAYS[way]
    arguments = ["--train", model, "--threads", str(threads), "--seconds", str(seconds)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.shared_machine", *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    with busy(num_busy):
        found: list[Speed] = [json.loads(process.communicate()[0]) for process in started]
    return {
        "steps": sum(item["steps"] for item in found),
        "cpu_seconds": sum(item["cpu_seconds"] for item in found),
    }


def rows(rounds: int, loads: list[int], seconds: float) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    found: dict[tuple[str, str, int], list[Speed]] = {}
    for _ in range(rounds):
        for model in MODELS:
            for load in loads:
                for way in WAYS:
                    key = model, way, load
                    found.setdefault(key, []).append(measure(model, way, load, seconds))
                    print(key, found[key][-1], file=sys.stderr, flush=True)
    result = []
    for (model, way, load), speeds in found.items():
        per_second = statistics.median(item["steps"] for item in speeds)
        efficiency = statistics.median(item["steps"] / item["cpu_seconds"] for item in speeds)
        alone = statistics.median(
            item["steps"] / item["cpu_seconds"] for item in found[model, way, loads[0]]
        )
        result.append(
            row(
                f"{model}, {way}, beside {load} busy processes",
                efficiency,
                "steps a CPU second",
                f"at least {GOAL:g} of those alone",
                efficiency >= GOAL * alone,
                f"alone {alone:.1f}; {per_second:.1f} steps a second, "
                f"{len(os.sched_getaffinity(0))} cores",
                is_goal=load > 0,
            )
        )
    return result


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", choices=MODELS, help="be the process that trains")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.threads, options.seconds)
    else:
        report("shared_machine", rows(options.rounds, options.busy, options.seconds))


if __name__ == "__main__":
    main()
