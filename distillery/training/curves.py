"""What a training run leaves besides weights: curves, its result, its checkpoint's name."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from distillery.data.text import Vocabulary
from distillery.training.batches import TrainingSet

DIGEST_BYTES = hashlib.sha256().digest_size  # at the end of a checkpoint
Terms = Mapping[str, Tensor]


@dataclass(frozen=True)
class Validation:
    """Transcribed utterances whose word error rate chooses the best epoch."""

    data: TrainingSet
    references: Sequence[str]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class FitResult:
    """Where a training run ended."""

    num_epochs: int
    best_epoch: int
    best_wer: float


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


class Curves:
    """Metrics by step, appended to a JSONL file that others may follow while it grows."""

    def __init__(self, path: Path, earlier: Sequence[Point] = (), prefix: str = "") -> None:
        """Start a file anew.

        Args:
            path: the file.
            earlier: points of other runs, which stand in front.
            prefix: what all keys of this run begin with.
        """
        self.path = path
        self.prefix = prefix
        self.earlier = list(earlier)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.restore([])

    def restore(self, points: Sequence[Point]) -> None:
        """Start again from the points of a checkpoint."""
        self.points = list(points)
        self.path.write_text(_lines([*self.earlier, *points]))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line per value; the time-stamp in milliseconds never changes again."""
        now = int(time.time() * 1000)
        points = [Point(self.prefix + key, value, step, now) for key, value in values.items()]
        self.points += points
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_lines(points))


def _lines(points: Sequence[Point]) -> str:
    return "".join(f"{json.dumps(asdict(point))}\n" for point in points)


def run_digest(*parts: Any) -> str:
    """Return a short digest of everything a run depends on, for its checkpoint's name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
