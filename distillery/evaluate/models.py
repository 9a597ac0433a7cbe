"""The models that the evaluation scores: which there are, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from distillery.models.recogniser import WEIGHTS_FILE

FOLDERS = {"teacher": "teacher", "student": "students", "control": "controls"}
"""Where models of each role lie, under models/ and curves/."""


class TrainedModel(NamedTuple):
    """A model as it was trained from one seed; the teacher has none."""

    model: str
    """What it is called among predictions: `teacher`, `students/conv`, `controls/conv`."""
    seed: int | None

    def __str__(self) -> str:
        return self.path

    @property
    def path(self) -> str:
        """Where it lies under models/ and curves/."""
        return self.model if self.seed is None else f"{self.model}/seed-{self.seed}"

    @property
    def is_student(self) -> bool:
        """Whether it is a student: no teacher, and no control."""
        return self.model.startswith(f"{FOLDERS['student']}/")


@dataclass(frozen=True)
class ScoredModel:
    """A model that has a row in the summary: all that was trained of it, one from each seed."""

    role: str
    """A key of FOLDERS."""
    name: str
    """In params.yaml; a control has its student's."""
    seeds: tuple[int | None, ...] = (None,)

    @property
    def key(self) -> str:
        """What tells it from all others."""
        folder = FOLDERS[self.role]
        return folder if self.role == "teacher" else f"{folder}/{self.name}"

    @property
    def trained(self) -> list[TrainedModel]:
        """What was trained, one from each seed."""
        return [TrainedModel(self.key, seed) for seed in self.seeds]


def find_models(models: Path, students: Sequence[str], seeds: Sequence[int]) -> list[ScoredModel]:
    """Return the teacher, and of each student its control, if one was trained, and itself.

    Args:
        models: the folder of all models.
        students: names in params.yaml; what else lies in the folder is ignored.
        seeds: what each of them was trained from.
    """
    found = [ScoredModel("teacher", "teacher")]
    for name in students:
        control = ScoredModel("control", name, tuple(seeds))
        if all((models / one.path / WEIGHTS_FILE).exists() for one in control.trained):
            found.append(control)
        found.append(ScoredModel("student", name, tuple(seeds)))
    return found


def weights_bytes(folder: Path) -> int:
    """Return the size of a saved model's weights, whatever files they are in."""
    if (folder / WEIGHTS_FILE).exists():
        return (folder / WEIGHTS_FILE).stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
