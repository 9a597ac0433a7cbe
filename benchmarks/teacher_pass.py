"""How fast a teacher pass is, against the obvious way and against its own forward passes alone.

    python -m benchmarks.teacher_pass [--workspace .] [--seconds 2400] [--rounds 3] [--sweep]

A workspace's trained teacher hears some of its training audio, on one thread. The whole
pass is the stage `cache` into an empty folder: planning, features, forward, decoding, packing and
writing. The obvious way is batches of 16 in random order; the bare forward pass takes the stage's
own batches; both extract features and do nothing with the result. Medians of paired rounds, in CPU
time and in wall time, which sees what is done at once. --sweep tries more sizes of batches. Rows go
to benchmarks/results/teacher_pass.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.common import ROOT, copied_workspace, report, row
from distillery.architectures.known import TEACHERS
from distillery.data.manifest import PreparedData
from distillery.device import num_threads
from distillery.models.recogniser import Recogniser
from distillery.params.cache import CacheParams, PayloadParams
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.filling.plan import plan_batches
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher

EAGER_BATCH = 16
MIN_SPEED_UP = 2.0
MIN_OF_BARE = 0.95
MAX_DIFFERENCE = 1e-3
LEAST_LOG_PROB = -10.0  # below it, log-probabilities are not compared
BATCH_SECONDS = (5.0, 10.0, 20.0, 30.0, 60.0)


@dataclass(frozen=True)
class Cost:
    """Medians of one job, in seconds."""

    cpu: float
    wall: float

    def __str__(self) -> str:
        return f"CPU {self.cpu:.2f} s, wall {self.wall:.2f} s"


def paired_costs(works: Sequence[Callable[[], object]], rounds: int) -> list[Cost]:
    """Return what each job costs; all take their turn in every round, after a warm-up."""
    found: list[list[tuple[float, float]]] = [[] for _ in works]
    for _ in range(rounds + 1):
        for work, times in zip(works, found, strict=True):
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return [
        Cost(*(statistics.median(column) for column in zip(*times[1:], strict=True)))
        for times in found
    ]


@dataclass(frozen=True)
class Bench:
    """A teacher and what it shall hear."""

    places: Places
    teacher: Recogniser
    data: PreparedData
    rows: pd.DataFrame

    @classmethod
    def open(cls, places: Places) -> Bench:
        """Load teacher and manifest."""
        data = PreparedData.open(places.data)
        return cls(places, Recogniser.load(places.teacher, TEACHERS), data, data.split("train"))

    @property
    def seconds(self) -> float:
        """Audio of one pass."""
        return float(self.rows["duration_seconds"].sum())

    def whole(self, params: CacheParams) -> Callable[[], object]:
        """Return the job of a whole pass into an empty cache."""

        def work() -> None:
            shutil.rmtree(self.places.cache, ignore_errors=True)
            fill_cache(self.places, load_teacher, params)

        return work

    def forward(self, batches: Sequence[np.ndarray]) -> Callable[[], object]:
        """Return the job of features and forward pass over batches of row positions."""
        items = list(self.rows.itertuples())

        def work() -> None:
            with torch.inference_mode():
                for batch in batches:
                    waveforms = [self.data.waveform(items[index]) for index in batch]
                    self.teacher.forward(*self.teacher.extract(waveforms))

        return work

    def random_batches(self) -> list[np.ndarray]:
        """Return batches of 16 in random order."""
        order = np.random.default_rng(0).permutation(len(self.rows))
        return [order[start : start + EAGER_BATCH] for start in range(0, len(order), EAGER_BATCH)]


def speed_rows(bench: Bench, params: CacheParams, rounds: int) -> list[dict[str, Any]]:
    """Return the rows about the default settings and bf16."""
    planned = plan_batches(bench.rows, params.batch_seconds)
    whole, rough, eager, bare = paired_costs(
        [
            bench.whole(params),
            bench.whole(params.model_copy(update={"precision": "bf16"})),
            bench.forward(bench.random_batches()),
            bench.forward(planned),
        ],
        rounds,
    )
    on = "1 thread"
    return [
        cost_row(
            f"whole teacher pass, {what}, {on}, {kind} time",
            getattr(theirs, kind) / getattr(ours, kind),
            goal,
            f"{against}, features and forward only in fp32: {theirs}; whole pass: {ours}; "
            f"{describe(bench)}",
        )
        for what, ours, theirs, goal, against in [
            ("fp32, against random batches", whole, eager, MIN_SPEED_UP, f"{EAGER_BATCH} at once"),
            ("bf16, against random batches", rough, eager, MIN_SPEED_UP, f"{EAGER_BATCH} at once"),
            ("fp32, against its bare forward", whole, bare, MIN_OF_BARE, f"{len(planned)} batches"),
        ]
        for kind in ("cpu", "wall")
    ]


def cost_row(name: str, value: float, goal: float | None, against: str) -> dict[str, Any]:
    """Return a row about a speed in relation to another."""
    wanted, holds = (None, None) if goal is None else (f"at least {goal:g}", value >= goal)
    return row(name, value, "times as fast", wanted, holds, against)


def describe(bench: Bench) -> str:
    """Return the corpus and the teacher in a few words."""
    return (
        f"{bench.data.summary.corpus}, {len(bench.rows):,} utterances, {bench.seconds:.0f} s, "
        f"{bench.teacher.architecture.type} teacher of {bench.teacher.num_parameters / 1e6:.1f} M"
    )


def sweep_rows(bench: Bench, rounds: int) -> list[dict[str, Any]]:
    """Return the rows about batch sizes, and about bf16."""
    settings = [CacheParams(batch_seconds=s, num_threads=1) for s in BATCH_SECONDS]
    settings += [s.model_copy(update={"precision": "bf16"}) for s in settings]
    costs = paired_costs([bench.whole(params) for params in settings], rounds)
    return [
        row(
            f"whole teacher pass, batches of {params.batch_seconds:g} s, {params.precision}, "
            "1 thread",
            bench.seconds / cost.cpu,
            "seconds of audio per CPU second",
            None,
            None,
            f"wall: {bench.seconds / cost.wall:.0f} s of audio a second; {describe(bench)}",
        )
        for params, cost in zip(settings, costs, strict=True)
    ]


def agreement_rows(bench: Bench) -> list[dict[str, Any]]:
    """Return the rows about what batches change in the outputs."""
    bench.whole(CacheParams(num_threads=1, payload=PayloadParams(log_probs="f32")))()
    cache = TeacherCache.open_current(bench.places.cache)
    probability, log_probability = 0.0, 0.0
    for item in bench.rows.itertuples():
        (alone,) = bench.teacher.log_probs([bench.data.waveform(item)])
        cached = cache.log_probs(cache.rows([str(item.audio_key)])).values[0]
        probability = max(probability, float(np.abs(np.exp(alone) - np.exp(cached)).max()))
        likely = alone > LEAST_LOG_PROB
        log_probability = max(log_probability, float(np.abs(alone - cached)[likely].max()))
    return [
        row(
            f"batches against one by one, largest difference of {name}",
            value,
            unit,
            f"at most {MAX_DIFFERENCE:g}",
            value <= MAX_DIFFERENCE,
            f"payload f32, eager forward of single utterances; {describe(bench)}",
        )
        for name, value, unit in [
            ("a probability", probability, "probability"),
            (f"a log-probability above {LEAST_LOG_PROB:g}", log_probability, "nats"),
        ]
    ]


def measure(
    workspace: Path, folder: Path, seconds: float, rounds: int, sweep: bool
) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    bench = Bench.open(copied_workspace(workspace, folder, seconds))
    rows = []
    with num_threads(1):
        rows += speed_rows(bench, CacheParams(num_threads=1), rounds)
        if sweep:
            rows += sweep_rows(bench, max(1, rounds // 2))
        rows += agreement_rows(bench)
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=ROOT)
    parser.add_argument("--seconds", type=float, default=2400, help="of audio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sweep", action="store_true", help="try more sizes of batches")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(
            arguments.workspace,
            Path(folder),
            arguments.seconds,
            arguments.rounds,
            arguments.sweep,
        )
    report("teacher_pass", rows)


if __name__ == "__main__":
    main()
