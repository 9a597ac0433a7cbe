"""TODO: candidates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distillery.errors import StageError
from distillery.models.recogniser import WEIGHTS_FILE

GROUPS = {"teacher": "teacher", "student": "students", "control": "controls"}


class Run(NamedTuple):
    """A model as trained from one seed; the teacher has no number."""

    model: str
    seed: int | None

    def __str__(self) -> str:
        return self.path

    @property
    def path(self) -> str:
        """Where it lies under models/ and curves/."""
        return self.model if self.seed is None else f"{self.model}/seed-{self.seed}"


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate."""

    role: str  # teacher, student or control
    name: str
    seeds: tuple[int | None, ...] = (None,)

    @property
    def key(self) -> str:
        """What tells it from all others."""
        group = GROUPS[self.role]
        return group if self.role == "teacher" else f"{group}/{self.name}"

    @property
    def runs(self) -> list[Run]:
        """What was trained, one per seed."""
        return [Run(self.key, seed) for seed in self.seeds]


def find_candidates(models: Path, students: Sequence[str], seeds: Sequence[int]) -> list[Candidate]:
    """Return the teacher, and of each student its control, if one was trained, and itself.

    Args:
        models: the folder of all models.
        students: names in params.yaml; what else lies in the folder is ignored.
        seeds: what each of them was trained from.
    """
    candidates = [Candidate("teacher", "teacher")]
    for name in students:
        control = Candidate("control", name, tuple(seeds))
        if all((models / run.path / WEIGHTS_FILE).exists() for run in control.runs):
            candidates.append(control)
        candidates.append(Candidate("student", name, tuple(seeds)))
    return candidates


def read_curves(path: Path) -> list[dict[str, Any]]:
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
            points.append({name: point[name] for name in ("key", "value", "step")})
        except (ValueError, KeyError, TypeError):
            raise StageError(
                f"{path}: line {number} is {line[:60]!r}, expected an object with key, value and "
                "step; run the stage that trains this model again"
            ) from None
    return points


def best_valid_wer(points: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the WER of the epoch whose weights were kept; none where nothing was trained here."""
    wers = [float(point["value"]) for point in points if point["key"] == "valid/wer"]
    return min((wer for wer in wers if math.isfinite(wer)), default=None)


def or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
