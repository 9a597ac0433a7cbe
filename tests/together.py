"""Trainings in several processes, compared with those of one."""

from __future__ import annotations

import json
from pathlib import Path

CLOSE = 1e-5
"""How far apart the loss curves of one process and of several may be."""


def curve(path: Path) -> dict[tuple[str, int], float]:
    """Return a file of learning curves by key and step, without what the clock said."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    points = {(row["key"], row["step"]): row["value"] for row in rows}
    return {name: value for name, value in points.items() if name[0] != "train/cpu_seconds"}


def assert_same_curve(one: Path, other: Path) -> None:
    """Make sure that two trainings differ by rounding at most."""
    first, second = curve(one), curve(other)
    assert first.keys() == second.keys()
    losses = [value for (key, _), value in first.items() if key == "train/loss"]
    assert len(set(losses)) == len(losses) > 1, "it learns"
    for name, value in first.items():
        assert abs(value - second[name]) < CLOSE, (name, value, second[name])
