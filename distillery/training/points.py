"""Points of learning curves, and the lines of JSON that they are on the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Point:
    """One value of a learning curve; fields stand in this order in the file."""

    key: str
    """What it is, such as `valid/wer`."""
    value: int | float
    """As it was logged: a whole number stays one."""
    step: int
    """Training steps until then."""
    timestamp: int
    """Milliseconds since the epoch."""


def read_points(path: Path) -> list[Point]:
    """Return the points of a file of curves, in their order."""
    return [Point(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def lines_of(points: Sequence[Point]) -> str:
    """Return points as lines of a file of curves."""
    return "".join(f"{json.dumps(asdict(point))}\n" for point in points)
