"""Learning curves, as far as the evaluation reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distillery.errors import StageError
from distillery.training.convergence import has_stopped_improving


class CurvePoint(NamedTuple):
    """One value of a learning curve."""

    key: str
    """What it is, such as `valid/wer`."""
    value: float
    """Rates are fractions."""
    step: int
    """Training steps until then."""


def read_curves(path: Path) -> list[CurvePoint]:
    """Read learning curves: a JSON object with `key`, `value` and `step` in each line.

    Raises:
        StageError: the file is missing, or a line is something else.
    """
    if not path.exists():
        raise StageError(f"{path}: no such file; run the stage that trains this model again")
    points = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            point = json.loads(line)
            points.append(CurvePoint(str(point["key"]), float(point["value"]), int(point["step"])))
        except (ValueError, KeyError, TypeError):
            raise StageError(
                f"{path}: line {number} is {line[:60]!r}, expected an object with key, value and "
                "step; run the stage that trains this model again"
            ) from None
    return points


def best_valid_wer(points: Sequence[CurvePoint]) -> float | None:
    """Return the WER of the epoch whose weights were kept; none where nothing was trained here."""
    wers = _values(points, "valid/wer")
    return min((wer for wer in wers if math.isfinite(wer)), default=None)


class Course(NamedTuple):
    """How a training went."""

    num_epochs: int
    """Passes over the training split; of several generations, the last one's."""
    cpu_seconds: float | None
    """Of computing, validation and earlier generations included; None in curves of before it was
    counted."""
    converged: bool
    """Whether validation had stopped improving when it ended."""


def course_of(points: Sequence[CurvePoint]) -> Course | None:
    """Return how a training went; None where nothing was trained here."""
    wers = _values(points, "valid/wer")
    if not wers or not _values(points, "train/loss"):
        return None
    told = _values(points, "valid/converged")
    spent = {point.key: point.value for point in points if point.key.endswith("train/cpu_seconds")}
    return Course(
        len(wers),
        sum(spent.values()) if spent else None,
        told[-1] == 1 if told else has_stopped_improving(wers),
    )


def _values(points: Sequence[CurvePoint], key: str) -> list[float]:
    return [point.value for point in points if point.key == key]
