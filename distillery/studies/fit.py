"""Whether a teacher and a student fit each other, and what works where not all of it does.

Frames and hidden states of a teacher face those of a student, so they have to be there, in the
student's tokens and at a rate that the student's is a whole multiple of. Texts suit everybody:
`sequence` is what always works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distillery.data.text import Vocabulary
from distillery.files import Json
from distillery.losses.known import SPARSE_FRAME_LOSSES
from distillery.models.fingerprint import Fingerprint
from distillery.params.base import INIT_TEACHER
from distillery.params.cache import CacheParams
from distillery.params.distill import DistillParams
from distillery.params.models import TeacherTokens
from distillery.params.objective import (
    FrameLossParams,
    HiddenLossParams,
    ObjectiveParams,
    SequenceLossParams,
)
from distillery.params.training import TrainingParams
from distillery.params.whole import Params
from distillery.teacher_cache.filling.expected import payload_settings

RATE_TOLERANCE = 1e-6
SHOWN_LAYERS = 4


@dataclass(frozen=True)
class TeacherFacts:
    """What a saved teacher says of itself, without its weights."""

    num_tokens: int
    is_of_characters: bool
    """Whether it writes in characters; if not, in pieces of words."""
    gives_frames: bool
    """Whether it says something about its tokens frame by frame; if not, texts alone."""
    frame_shift_seconds: float
    layers: Mapping[str, int]
    """Widths of its hidden layers."""
    architecture: Json

    @classmethod
    def of(cls, fingerprint: Fingerprint, vocabulary: Vocabulary) -> TeacherFacts:
        """Return the facts in a fingerprint.

        Args:
            fingerprint: of the teacher.
            vocabulary: its tokens, in the corpus's spelling.
        """
        return cls(
            len(vocabulary),
            vocabulary.is_of_characters,
            fingerprint.gives_frames,
            fingerprint.frame_shift_seconds,
            fingerprint.layers,
            fingerprint.architecture,
        )


@dataclass(frozen=True)
class Fit:
    """How one student can learn from one teacher."""

    student: str
    problems: Mapping[str, str]
    """By what cannot work: `frame`, `hidden`, `init` or `crop`; why not."""
    objective: ObjectiveParams
    """The student's, without what cannot work."""

    @property
    def works(self) -> str:
        """The terms that work, such as `sequence, hidden`."""
        objective = self.objective
        terms = {
            "frame": objective.uses_frames,
            "sequence": objective.uses_sequence,
            "hidden": objective.uses_hidden,
        }
        return ", ".join(name for name, used in terms.items() if used) or "transcripts alone"


def fit_of(facts: TeacherFacts, settings: Params, student: str) -> Fit:
    """Return whether a student's settings fit a teacher, and an objective that does.

    Args:
        facts: what the teacher is.
        settings: the whole of params.yaml, whose teacher may be another.
        student: a name under distill.students.
    """
    distill, objective = settings.distill, settings.distill.objective_of(student)
    problems = {}
    rate = _rate_problem(facts, distill, student)
    if objective.uses_frames and (why := _no_frames(facts, settings, student) or rate):
        problems["frame"] = why
    if objective.uses_hidden and (why := _no_hidden(facts, objective) or rate):
        problems["hidden"] = why
    adapted = _without(objective, problems)
    if distill.students[student].init == INIT_TEACHER:
        own, theirs = distill.students[student].architecture.type, facts.architecture.get("type")
        if own != theirs:
            problems["init"] = f"the student is a {own}, the teacher a {theirs}"
    if distill.augmentation.crop and not (adapted.uses_frames or adapted.uses_hidden):
        problems["crop"] = "texts are not valid for a part of an utterance"
    return Fit(student, problems, adapted)


def _no_frames(facts: TeacherFacts, settings: Params, student: str) -> str | None:
    if not facts.gives_frames:
        return "it gives texts, no frames over the students' tokens"
    writes_as_teacher = isinstance(settings.distill.students[student].tokens, TeacherTokens)
    if not (facts.is_of_characters or writes_as_teacher):
        return "it writes in subwords, the student in characters; see tokens: {type: teacher}"
    payload = payload_settings(settings.cache, facts.num_tokens)["kind"]
    loss = settings.distill.objective_of(student).frame.type
    if payload != "sparse":
        return None
    if loss not in SPARSE_FRAME_LOSSES:
        return f"{loss} reads all {facts.num_tokens} tokens, and a sparse cache keeps the likeliest"
    if _ratio(facts, settings.distill, student) > 1 + RATE_TOLERANCE:
        return "a sparse cache needs equal frame rates"
    return None


def _no_hidden(facts: TeacherFacts, objective: ObjectiveParams) -> str | None:
    wanted = objective.hidden.layers.values()
    if unknown := [layer for layer in wanted if layer not in facts.layers]:
        known = sorted(facts.layers)
        more = f" and {len(known) - SHOWN_LAYERS} more" if len(known) > SHOWN_LAYERS else ""
        shown = ", ".join(known[:SHOWN_LAYERS])
        return f"it has no layer {unknown[0]}, only {shown or 'none'}{more}"
    return None


def _ratio(facts: TeacherFacts, distill: DistillParams, student: str) -> float:
    """Return how many of the teacher's frames one of the student's faces."""
    if facts.frame_shift_seconds <= 0:
        return 0.0
    shift = distill.features_of(student).hop_seconds
    reduction = distill.students[student].architecture.time_reduction
    return shift * reduction / facts.frame_shift_seconds


def _rate_problem(facts: TeacherFacts, distill: DistillParams, student: str) -> str | None:
    ratio = _ratio(facts, distill, student)
    if ratio >= 1 - RATE_TOLERANCE and abs(ratio - round(ratio)) <= RATE_TOLERANCE:
        return None
    if facts.frame_shift_seconds <= 0:
        return "it has no frames"
    theirs = 1000 * facts.frame_shift_seconds
    return (
        f"one frame per {ratio * theirs:g} ms is no whole multiple of the teacher's {theirs:g} ms"
    )


def _without(objective: ObjectiveParams, problems: Mapping[str, str]) -> ObjectiveParams:
    """Return an objective without some terms; `sequence` takes the place of `frame`."""
    changes: dict[str, object] = {}
    if "frame" in problems:
        changes["frame"] = FrameLossParams(weight=0.0)
    if "hidden" in problems:
        changes["hidden"] = HiddenLossParams()
    adapted = objective.model_copy(update=changes)
    if changes and not (adapted.uses_frames or adapted.uses_sequence):
        adapted = adapted.model_copy(update={"sequence": SequenceLossParams()})
    return adapted


def pilot_settings(settings: Params, fit: Fit) -> DistillParams:
    """Return the settings of a pilot's student: its adapted objective, one generation, few epochs.

    Args:
        settings: the whole of params.yaml.
        fit: of the pilot's student and the teacher.
    """
    distill, pilot = settings.distill, settings.teacher_candidates.pilot
    student: dict[str, object] = {"objective": fit.objective}
    if "init" in fit.problems:
        student["init"] = None
    augmentation = distill.augmentation
    if "crop" in fit.problems:
        crop = type(augmentation).model_fields["crop"].default
        augmentation = augmentation.model_copy(update={"crop": crop})
    return distill.model_copy(
        update={
            "generations": 1,
            "control": True,
            "seeds": pilot.seeds,
            "augmentation": augmentation,
            "training": _short(distill.training, pilot.num_epochs),
            "students": {fit.student: distill.students[fit.student].model_copy(update=student)},
        }
    )


def _short(training: TrainingParams, num_epochs: int) -> TrainingParams:
    """Return a training of so many epochs; how long `auto` waits is nothing to a short one."""
    patience = None if training.known_epochs is None else training.patience
    return training.model_copy(update={"num_epochs": num_epochs, "patience": patience})


def pilot_cache(cache: CacheParams, fit: Fit) -> CacheParams:
    """Return settings for what the pilot's teacher says: of hidden layers, those learnt from."""
    return cache.keeping(fit.objective.teacher_layers)
