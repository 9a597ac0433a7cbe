"""Runs Distillery and its peers in turn and writes the rows; see __init__.py."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, report, row
from benchmarks.digits import num_parameters, recordings
from benchmarks.peers import environment
from benchmarks.peers.material import OBJECTIVES, Material
from benchmarks.peers.shared import SAYS

OURS = "ours"
SAME_LOSS = 0.01
"""Share by which first losses may lie apart: our cache keeps bytes, our features 16 bits."""


@dataclass(frozen=True)
class Peer:
    """A way to train the same student."""

    name: str
    arguments: tuple[str, ...]
    """Module under benchmarks.peers, and what it gets beside the task."""
    goal: float | None = None
    """Times as much CPU time as ours it should need at least."""


PEERS = (
    Peer("SpeechBrain, features and teacher in its HDF5 cache", ("with_speechbrain", "plain"), 5.0),
    Peer("SpeechBrain, the same with our student's layers", ("with_speechbrain", "ours")),
    Peer(
        "torchdistill, features computed in each epoch, live teacher",
        ("with_torchdistill", "plain", "computed"),
        5.0,
    ),
    Peer(
        "torchdistill, features in memory, live teacher",
        ("with_torchdistill", "plain", "memory"),
        2.5,
    ),
    Peer(
        "torchdistill, the same with our student's layers", ("with_torchdistill", "ours", "memory")
    ),
)


class Worker:
    """A process that trains an epoch when it is asked to."""

    def __init__(self, python: Path | str, log: Path, module: str, *arguments: str) -> None:
        """Start it; the answer to come first is its loss before any step.

        Args:
            python: the interpreter.
            log: file that receives what it prints as errors.
            module: under benchmarks.peers.
            arguments: of its command line.
        """
        self.log = log
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.peers.{module}", *arguments],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def answer(self) -> dict[str, float]:
        """Return what it says next.

        Raises:
            SystemExit: it ended.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(SAYS):
                found: dict[str, float] = json.loads(line.removeprefix(SAYS))
                return found
        lines = self.log.read_text("utf-8").strip().splitlines() or ["it says nothing"]
        raise SystemExit(f"error: {self.log.stem} ended early: {lines[-1]}")

    def epoch(self) -> float:
        """Let it train one epoch; return the CPU seconds that took."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()["cpu_seconds"]

    def end(self) -> None:
        """Close its input, which ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def workers(python: Path, folder: Path, peers: Sequence[Peer]) -> Iterator[dict[str, Worker]]:
    """Yield a started worker by name, ours first."""
    with ExitStack() as stack:
        started = {}
        for name, interpreter, (module, *rest) in (
            (OURS, sys.executable, ("ours",)),
            *((peer.name, python, peer.arguments) for peer in peers),
        ):
            log = folder / f"{'-'.join([module, *rest])}.log"
            started[name] = Worker(interpreter, log, module, str(folder), *rest)
            stack.callback(started[name].end)
        yield started


def measure(
    python: Path, material: Material, rounds: int, peers: Sequence[Peer] = PEERS
) -> list[dict[str, Any]]:
    """Return the rows of one objective: ours and each peer train an epoch in turn, so many times.

    Raises:
        SystemExit: a peer's loss before any step is another: it would not train the same.
    """
    with workers(python, material.folder, peers) as started:
        losses = {name: worker.answer()["loss"] for name, worker in started.items()}
        for name, loss in losses.items():
            if abs(loss - losses[OURS]) > SAME_LOSS * losses[OURS]:
                raise SystemExit(
                    f"error: {name}: the first loss is {loss:.4f}, ours {losses[OURS]:.4f}, "
                    f"expected the same up to {SAME_LOSS:.0%}; the tasks differ"
                )
        for worker in started.values():
            worker.epoch()
        times = [{name: worker.epoch() for name, worker in started.items()} for _ in range(rounds)]
    return rows_of(material, losses, times, peers)


def rows_of(
    material: Material,
    losses: Mapping[str, float],
    times: Sequence[Mapping[str, float]],
    peers: Sequence[Peer],
) -> list[dict[str, Any]]:
    """Return a row for each peer.

    Args:
        material: the task.
        losses: before any step, by name.
        times: CPU seconds of an epoch by name, of each round.
        peers: whom ours is compared with.
    """
    ours = statistics.median(found[OURS] for found in times)
    digits = material.digits
    task = (
        f"objective {material.kind!r}; {len(digits.rows):,} utterances of FSDD, student "
        f"{num_parameters(material.beginning()[0]) / 1e3:.0f} k, teacher of random weights "
        f"{digits.teacher.num_parameters / 1e3:.0f} k parameters, fp32, one thread"
    )
    rows = []
    for peer in peers:
        value = statistics.median(found[peer.name] / found[OURS] for found in times)
        theirs = statistics.median(found[peer.name] for found in times)
        rows.append(
            row(
                f"epoch of {peer.name}, objective {material.kind}",
                value,
                "times our CPU time",
                None if peer.goal is None else f"at least {peer.goal:g}",
                None if peer.goal is None else value >= peer.goal,
                f"{theirs:.2f} s, ours {ours:.2f} s; loss before the first step "
                f"{losses[peer.name]:.4f}, ours {losses[OURS]:.4f}; {task}",
            )
        )
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the environment")
    parser.add_argument("--source", type=Path, help="folder of FSDD; holds recordings/")
    parser.add_argument("--clips", type=int, help="training utterances; by default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--objective", choices=OBJECTIVES, action="append", help="default: both")
    parser.add_argument("--keep", type=Path, help="folder for the task, not to be removed")
    options = parser.parse_args()
    source = recordings(options.source).resolve()
    python = environment.make(options.cache.resolve())
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep.resolve() if options.keep else Path(temporary)
        for kind in options.objective or OBJECTIVES:
            material = Material.make(source, folder / kind, kind, options.clips)
            rows += measure(python, material, options.rounds)
    report("peers", rows)


if __name__ == "__main__":
    main()
