"""What a training run leaves besides weights: curves, its result, its checkpoint's name."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.training.batches import TrainingSet
from distillery.training.points import Point, lines_of

DIGEST_BYTES = hashlib.sha256().digest_size  # at the end of a checkpoint
VALID_WER = "valid/wer"
CPU_SECONDS = "train/cpu_seconds"
"""Of the training so far, validation included, on all threads; without what a kill threw away."""
CONVERGED = "valid/converged"
"""At the end: 1 where validation had stopped improving, 0 where it had not."""
ITEMS_AT_ONCE = 2**14
"""Of an iterator, written as JSON together."""
Terms = Mapping[str, Tensor]
"""What an objective consists of, by name; `loss` is what is minimised."""


@dataclass(frozen=True)
class Validation:
    """Transcribed utterances whose rate of errors chooses the best epoch."""

    data: TrainingSet
    references: Sequence[str]
    vocabulary: Vocabulary
    unit: Unit = Unit.WORD
    """What errors are counted in."""


@dataclass(frozen=True)
class FitResult:
    """Where a training run ended."""

    num_epochs: int
    best_epoch: int
    best_wer: float
    converged: bool
    """Whether validation had stopped improving."""


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
        self.path.write_text(lines_of([*self.earlier, *points]))

    def values(self, key: str) -> list[float]:
        """Return the values of this run under a key, in their order."""
        return [point.value for point in self.points if point.key == self.prefix + key]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line per value; the time-stamp in milliseconds never changes again."""
        now = int(time.time() * 1000)
        points = [Point(self.prefix + key, value, step, now) for key, value in values.items()]
        self.points += points
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(lines_of(points))


def run_digest(*parts: Any) -> str:
    """Return a short digest of everything a run depends on, for its checkpoint's name.

    It is that of the parts as one JSON array. An iterator counts as a list, and is read piece by
    piece.
    """
    digest = hashlib.sha256(b"[")
    for number, part in enumerate(parts):
        digest.update(b", " if number else b"")
        if isinstance(part, Iterator):
            digest.update(b"[")
            joint = b""
            while piece := [*islice(part, ITEMS_AT_ONCE)]:
                digest.update(joint + _json(piece)[1:-1])
                joint = b", "
            digest.update(b"]")
        else:
            digest.update(_json(part))
    digest.update(b"]")
    return digest.hexdigest()[:16]


def _json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, default=str).encode()
