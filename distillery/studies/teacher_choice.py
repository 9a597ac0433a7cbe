"""Teachers compared before one is chosen: what was found out of each, their figures, their order.

Everything is measured on the transcribed validation split, so that the test split stays unseen by
the choice. The order is that of what a pilot student gained over its control, for the recogniser
with the fewest errors is not always the one that teaches best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from distillery.data.scoring import SeedsResult, count_errors, count_text_errors, rate_over_seeds
from distillery.data.units import Unit
from distillery.evaluate.comparison import verdict
from distillery.evaluate.evaluate import describe
from distillery.evaluate.predictions import BOOTSTRAP_SEED
from distillery.evaluate.records import Estimate, Record
from distillery.evaluate.summary import TestData
from distillery.params.evaluate import EvaluateParams
from distillery.params.whole import Params
from distillery.studies.fit import Fit


@dataclass(frozen=True)
class PilotResult:
    """What one pilot's student and control heard on the validation split."""

    seed: int
    student: Sequence[str]
    """Texts, one per utterance."""
    control: Sequence[str]


@dataclass(frozen=True)
class Candidate:
    """All that was found out about one teacher; what could not be is None or empty."""

    name: str
    kind: str
    problem: str | None = None
    """Why it cannot work at all."""
    num_parameters: int | None = None
    num_tokens: int | None = None
    frame_shift_seconds: float | None = None
    gives_frames: bool | None = None
    texts: Sequence[str] | None = None
    """What it heard, one text per validation utterance."""
    calibration_error: float | None = None
    calibrated_over: str | None = None
    """What calibration counts: tokens, or whole texts of a teacher that gives no frames."""
    seconds_per_hour: float | None = None
    """Teacher's time for an hour of audio, in seconds."""
    cache_bytes_per_hour: float | None = None
    fits: Sequence[Fit] = ()
    """One per configured student."""
    pilots: Sequence[PilotResult] = ()
    """One per seed."""
    pilot_problem: str | None = None
    """Why no pilot was trained, where the teacher itself works."""

    def fit_of(self, student: str) -> Fit | None:
        """Return how it fits one of the students."""
        return next((fit for fit in self.fits if fit.student == student), None)


# --- figures, as teachers.json holds them ------------------------------------------------------


class FitRow(Record):
    """Whether one student can learn from the teacher."""

    problems: Mapping[str, str]
    """By what cannot work: `frame`, `hidden`, `init` or `crop`; why not."""
    works: str
    """The terms that work, such as `sequence, hidden`."""


class PilotRow(Record):
    """What a teacher's pilot gained; rates are means over its seeds."""

    learns: str | None
    """The terms that its student learnt by."""
    student_wer: Estimate
    """WER of the student that learnt from the teacher."""
    control_wer: Estimate
    """WER of the same network, trained without."""
    gain_wer: Estimate
    """The control's WER minus the student's."""
    verdict: str
    """The gain in a sentence."""


class CandidateRow(Record):
    """The figures of one teacher; those that are unknown are None."""

    name: str
    """A key of `teacher_candidates.teachers`, or `teacher`."""
    kind: str
    """As under `teacher.kind`."""
    problem: str | None
    """Why it cannot work at all."""
    parameters: int | None
    """Numbers that it consists of."""
    tokens: int | None
    """Size of its vocabulary."""
    frame_shift_seconds: float | None
    """Time between two of its frames."""
    gives_frames: bool | None
    """Whether it says something about the students' tokens frame by frame; if not, texts alone."""
    calibration_error: float | None
    """Expected calibration error, as a fraction."""
    calibrated_over: str | None
    """What that counts: `tokens`, or `texts` of a teacher that gives no frames."""
    seconds_per_hour: float | None
    """Its time for an hour of audio, in seconds."""
    cache_bytes_per_hour: float | None
    """What its outputs take on disk for an hour of audio."""
    fits: Mapping[str, FitRow]
    """By student."""
    pilot_problem: str | None
    """Why no pilot was trained, where the teacher itself works."""
    wer: Estimate | None = None
    """Its word error rate."""
    pilot: PilotRow | None = None
    """What a student gained from it."""


class PilotSettings(Record):
    """What the pilots were trained with."""

    student: str
    """A name under `distill.students`."""
    fraction: float
    """Share of the training audio that they learnt from."""
    hours: float
    """That audio."""
    num_epochs: int
    """Passes over it."""
    seeds: tuple[int, ...]
    """What student and control were trained from."""


class Lead(Record):
    """How the best teacher compares with the next."""

    first: str
    """Name of the one whose student gained most."""
    second: str
    """Name of the next."""
    gain_wer: Estimate
    """How much more the student of the first gained."""
    significant: bool
    """Whether the interval of that excludes zero."""


class TeacherChoice(Record):
    """All figures of a comparison of teachers; rates and gains are fractions."""

    confidence: float
    """Coverage of the intervals."""
    data: TestData
    """The validation utterances that all were measured on."""
    pilot: PilotSettings
    """What the pilots were trained with."""
    candidates: tuple[CandidateRow, ...]
    """In the order of what their pilots gained; behind them those without a pilot, by their WER,
    and at the end those that cannot work."""
    lead: Lead | None
    """None where fewer than two pilots were trained."""
    disagreement: Mapping[str, Mapping[str, float]]
    """By two teachers: edits, of words or characters, between their texts by their mean length."""


@dataclass(frozen=True)
class Errors:
    """Word errors on the validation split."""

    words: np.ndarray = field(repr=False)  # (utterances,)
    references: Sequence[str]
    params: EvaluateParams
    unit: Unit = Unit.WORD
    """What counts as a word."""

    @classmethod
    def against(
        cls, texts: Sequence[str], params: EvaluateParams, unit: Unit = Unit.WORD
    ) -> Errors:
        """Prepare to count errors against reference texts."""
        return cls(np.array([len(unit.parts(text)) for text in texts]), texts, params, unit)

    def of(self, hypotheses: Sequence[str]) -> np.ndarray:
        """Return the errors in each utterance `(utterances,)`."""
        pairs = zip(self.references, hypotheses, strict=True)
        return np.array([count_text_errors(text, said, self.unit).errors for text, said in pairs])

    def of_pilots(self, item: Candidate) -> tuple[np.ndarray, np.ndarray]:
        """Return the errors of students and of controls, each `(seeds, utterances)`."""
        students = [self.of(pilot.student) for pilot in item.pilots]
        return np.stack(students), np.stack([self.of(pilot.control) for pilot in item.pilots])

    def rate(self, errors: np.ndarray) -> SeedsResult:
        """Return the rate of errors, or of differences of them, `(seeds, utterances)`."""
        return rate_over_seeds(
            errors, self.words, self.params.num_resamples, self.params.confidence, BOOTSTRAP_SEED
        )


def disagreement(first: Sequence[str], second: Sequence[str], unit: Unit = Unit.WORD) -> float:
    """Return how much two sets of texts differ, in [0, 2]: word edits by the mean number of words.

    The rate of errors between them, made the same from both sides. Two that say nothing agree.
    """
    pairs = [(unit.parts(a), unit.parts(b)) for a, b in zip(first, second, strict=True)]
    edits = sum(count_errors(a, b).errors for a, b in pairs)
    words = sum(len(a) + len(b) for a, b in pairs)
    return 2 * edits / words if words else 0.0


def summarise(
    candidates: Sequence[Candidate],
    rows: pd.DataFrame,
    pilot_hours: float,
    settings: Params,
    unit: Unit = Unit.WORD,
) -> TeacherChoice:
    """Return all figures.

    Args:
        candidates: what was found out.
        rows: the transcribed validation utterances, in the order of all texts.
        pilot_hours: audio that a pilot learns from.
        settings: the whole of params.yaml.
        unit: what errors are counted in.
    """
    errors = Errors.against(list(rows["text"]), settings.evaluate, unit)
    pilot = settings.teacher_candidates.pilot
    rated = sorted((_rated(item, errors, settings) for item in candidates), key=_order)
    heard = {item.name: item.texts for item in candidates if item.texts is not None}
    pairs = {
        (a, b): disagreement(heard[a], heard[b], unit) for a, b in itertools.combinations(heard, 2)
    }
    names = [row.name for row in rated if row.name in heard]
    return TeacherChoice(
        confidence=settings.evaluate.confidence,
        data=describe(rows, unit),
        pilot=PilotSettings(
            student=settings.pilot_student,
            fraction=pilot.fraction,
            hours=pilot_hours,
            num_epochs=pilot.num_epochs,
            seeds=pilot.seeds,
        ),
        candidates=tuple(rated),
        lead=_lead(candidates, rated, errors),
        disagreement={
            a: {b: pairs.get((a, b), pairs.get((b, a), 0.0)) for b in names} for a in names
        },
    )


def _rated(item: Candidate, errors: Errors, settings: Params) -> CandidateRow:
    fits = {fit.student: FitRow(problems=dict(fit.problems), works=fit.works) for fit in item.fits}
    wer = None
    if item.texts is not None:
        wer = Estimate.of(errors.rate(errors.of(item.texts)[None]))
    return CandidateRow(
        name=item.name,
        kind=item.kind,
        problem=item.problem,
        parameters=item.num_parameters,
        tokens=item.num_tokens,
        frame_shift_seconds=item.frame_shift_seconds,
        gives_frames=item.gives_frames,
        calibration_error=item.calibration_error,
        calibrated_over=item.calibrated_over,
        seconds_per_hour=item.seconds_per_hour,
        cache_bytes_per_hour=item.cache_bytes_per_hour,
        fits=fits,
        pilot_problem=item.pilot_problem,
        wer=wer,
        pilot=_piloted(item, errors, settings.pilot_student) if item.pilots else None,
    )


def _piloted(item: Candidate, errors: Errors, pilot_student: str) -> PilotRow:
    fit = item.fit_of(pilot_student)
    student, control = errors.of_pilots(item)
    gain, student_wer = errors.rate(control - student), errors.rate(student)
    return PilotRow(
        learns=fit.works if fit else None,
        student_wer=Estimate.of(student_wer),
        control_wer=Estimate.of(errors.rate(control)),
        gain_wer=Estimate.of(gain),
        verdict=verdict(gain, errors.unit, student_wer.mean),
    )


def _order(row: CandidateRow) -> tuple[bool, bool, float, float]:
    gain = 0.0 if row.pilot is None else row.pilot.gain_wer.value
    wer = math.inf if row.wer is None else row.wer.value
    return row.problem is not None, row.pilot is None, -gain, wer


def _lead(
    candidates: Sequence[Candidate], rated: Sequence[CandidateRow], errors: Errors
) -> Lead | None:
    """Return how much more the first one's students gained than the second one's."""
    by_name = {item.name: item for item in candidates}
    names = [row.name for row in rated if row.pilot is not None]
    if len(names) < 2:
        return None
    gains = []
    for name in names[:2]:
        student, control = errors.of_pilots(by_name[name])
        gains.append(control - student)
    more = errors.rate(gains[0] - gains[1])
    return Lead(
        first=names[0],
        second=names[1],
        gain_wer=Estimate.of(more),
        significant=more.significant,
    )
