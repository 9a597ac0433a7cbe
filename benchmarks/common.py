"""What the benchmarks share: paired timing, rows with machine and commit, files."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillery.files import write_json
from distillery.speed import processor_name

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call, in seconds; other programs disturb it little."""
    started = time.process_time()
    work()
    return time.process_time() - started


def paired_medians(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median CPU seconds of each job, after a warm-up.

    All jobs take their turn in every round, so a slow phase of the machine hits all of them.
    """
    for work in works:
        work()
    times = [[cpu_seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def row(name: str, value: float, unit: str, goal: str, holds: bool, against: str) -> dict[str, Any]:
    """Return one row of a benchmark's results.

    Args:
        name: what was measured.
        value: the figure.
        unit: its unit.
        goal: what was asked for, in words.
        holds: whether it was reached.
        against: what it was compared with, or measured on.
    """
    return {
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "goal": goal,
        "holds": bool(holds),
        "against": against,
        "machine": machine(),
        "commit": commit(),
    }


def machine() -> str:
    """Return processor and interpreter in a few words, without the machine's name."""
    return f"{processor_name()}, one core, Python {platform.python_version()}"


def commit() -> str:
    """Return the revision that was measured, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit yet"


def write_rows(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows to benchmarks/results/NAME.json and return the path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, rows)
    return path
