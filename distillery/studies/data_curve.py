"""WER against the amount of training data: what a share of it holds, and which models there are.

The teacher and its cached outputs are always those of all data; students and controls are trained
on a share of the training split, transcribed or not. What the axis shows is thus how much audio a
student needs of a teacher that is given. Every share takes as many steps as all data would
(`Distillation.pace`), so the amount of data is the only thing that differs along a curve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.manifest import PreparedData
from distillery.data.workspace import CURVES
from distillery.errors import CorpusError
from distillery.evaluate.models import FOLDERS, TrainedModel
from distillery.params.whole import Params
from distillery.prepare.splits import hash_fraction

MODELS = "models/curve"
LEARNING_CURVE_FILE = "learning_curve.jsonl"
SALT = "curve"


def percent(fraction: float) -> str:
    """Return a share in percent, `10` or `12.5`."""
    return f"{100 * fraction:g}"


def draw(data: PreparedData, fraction: float) -> PreparedData:
    """Return the data with a share of their training split; the other splits stay whole.

    Utterances are drawn by hash of their audio, so a smaller share lies inside every larger one,
    equal audio is drawn together, and data that come later move none that are there.

    Args:
        data: prepared data.
        fraction: share of the utterances in (0, 1]; hit as well as chance does.
    """
    hashes = data.frame["audio_key"].map(lambda key: hash_fraction(SALT, key))
    kept = (data.frame["split"] != "train") | (hashes < fraction)
    return replace(data, frame=data.frame[kept])


@dataclass(frozen=True)
class Amount:
    """How much training data a share holds."""

    fraction: float
    """Share of the training split, as the settings have it."""
    num_utterances: int
    """Utterances that it draws."""
    hours: float
    """Their audio, transcribed or not."""
    transcribed_hours: float
    """Audio of those that have a transcript."""
    num_transcribed: int
    """How many these are."""

    @classmethod
    def of(cls, data: PreparedData, fraction: float) -> Amount:
        """Return what a share of the data holds."""
        rows = draw(data, fraction).split("train")
        seconds, has_text = rows["duration_seconds"], rows["text"].notna()
        return cls(
            fraction,
            len(rows),
            float(seconds.sum()) / SECONDS_PER_HOUR,
            float(seconds[has_text].sum()) / SECONDS_PER_HOUR,
            int(has_text.sum()),
        )


def amounts(data: PreparedData, settings: Params) -> list[Amount]:
    """Return what every share holds, smallest first.

    Raises:
        CorpusError: one is empty, or has no transcript where one is needed.
    """
    found = [Amount.of(data, fraction) for fraction in sorted(settings.curve.fractions)]
    total = len(data.split("train"))
    distill = settings.distill
    needs_text = distill.control is True or not all(
        distill.objective_of(name).uses_teacher for name in settings.curve_students
    )
    reader = "the control" if distill.control is True else "a student that has no teacher"
    for item in found:
        which = f"curve.fractions: {item.fraction:g} draws {item.num_utterances} of the {total}"
        if not item.num_utterances:
            raise CorpusError(
                f"{which} training utterances, at least one is needed; leave it out, or take more"
            )
        if needs_text and not item.num_transcribed:
            raise CorpusError(
                f"{which} training utterances and none of them has a transcript, at least one is "
                f"needed by {reader}; leave it out, take more, or add transcripts"
            )
    return found


class CurveModel(NamedTuple):
    """One model on a curve."""

    role: str
    """student or control."""
    student: str
    """Name of the student, or of the control's."""
    seed: int
    """What it is trained from."""
    fraction: float
    """Share of the training data."""

    @property
    def item(self) -> str:
        """What tells it from others of its share, as below models/ and curves/."""
        return f"{FOLDERS[self.role]}/{self.student}/seed-{self.seed}"

    @property
    def trained(self) -> TrainedModel:
        """What it is called among predictions."""
        name = f"{FOLDERS[self.role]}/{self.student}@{percent(self.fraction)}"
        return TrainedModel(name, self.seed)

    @property
    def is_stages(self) -> bool:
        """Whether the stage `distill` trains it: that of all data."""
        return self.fraction == 1.0

    def folder(self, root: Path) -> Path:
        """Return where it lies in a workspace."""
        if self.is_stages:
            return root / "models" / self.item
        return root / MODELS / self.item / f"{percent(self.fraction)}-percent"

    def learning_curve(self, root: Path) -> Path:
        """Return the file of its learning curve."""
        if self.is_stages:
            return root / f"{CURVES}/{self.item}.jsonl"
        return self.folder(root) / LEARNING_CURVE_FILE

    def __str__(self) -> str:
        return f"{self.role} {self.student}, {percent(self.fraction)} %, seed {self.seed}"


def models_of(settings: Params) -> list[CurveModel]:
    """Return all models of the curves: small shares first, a control behind its student."""
    roles = ("student", "control") if settings.distill.control is True else ("student",)
    return [
        CurveModel(role, student, seed, fraction)
        for fraction in sorted(settings.curve.fractions)
        for student in settings.curve_students
        for seed in settings.distill.seeds
        for role in roles
    ]
