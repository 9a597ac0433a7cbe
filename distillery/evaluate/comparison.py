"""What distillation gained a student: against its control, trained without the teacher's outputs.

A new figure is a field of `Comparison` and a line of `compare`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from distillery.data.scoring import SeedsResult, spread
from distillery.data.units import Unit
from distillery.evaluate.predictions import (
    COMPARED,
    errors_by_seed,
    has_language_model,
    rate_over,
    rows_of,
    seeds_of,
)
from distillery.evaluate.records import Estimate, Record
from distillery.params.evaluate import EvaluateParams

BROKEN_WER = 0.95
"""From here on a student has learnt nothing; one that says nothing has 1."""

UNKNOWN_TRUTH = (
    "judged against the teacher's texts, so what both get wrong is unknown, and the teacher's own "
    "errors count as right"
)
"""What a verdict does not know where nothing is transcribed."""


class SeedGain(Record):
    """What distillation gained the student of one seed."""

    seed: int
    """What student and control were trained from."""
    gain_wer: Estimate
    """WER of that seed's control minus the student's."""
    gap_closed: float | None
    """As for `Comparison`."""


class Comparison(Record):
    """A student beside its control and the teacher; differences of WERs are fractions."""

    excess_wer: Estimate
    """The student's WER minus the teacher's."""
    gain_wer_lm: Estimate | None = None
    """The gain with the language model; None where either was not measured with it."""
    gain_wer: Estimate | None
    """The control's WER minus the student's; None where no control was trained."""
    gain_significant: bool
    """Whether the interval of the gain excludes zero."""
    gap_closed: float | None
    """Share of the gap between control and teacher that the student closes, from the mean WERs;
    None where there is no gap."""
    gap_closed_sd: float | None
    """Its standard deviation over the seeds; None with one seed, or where one has no gap."""
    verdict: str
    """The gain in a sentence."""
    by_seed: tuple[SeedGain, ...]
    """The same of each seed; empty where no control was trained."""

    def of_seed(self, seed: int) -> SeedGain | None:
        """Return what one seed gained; None where no control was trained."""
        return next((gain for gain in self.by_seed if gain.seed == seed), None)


def compare(
    student: str, predictions: pd.DataFrame, params: EvaluateParams, unit: Unit = Unit.WORD
) -> Comparison:
    """Return what distillation gained a student, and how far it is from the teacher.

    Each seed's student is compared with the control of that seed; the figures are means over them.

    Args:
        student: its name.
        predictions: of all models.
        params: settings of the stage.
        unit: what errors are counted in.
    """
    of_teacher, of_student, of_control = (
        rows_of(predictions, model, COMPARED)
        for model in ("teacher", f"students/{student}", f"controls/{student}")
    )
    words = of_teacher["words"].to_numpy()
    errors = errors_by_seed(of_student, "word_errors")  # (seeds, utterances)
    teacher_errors = errors_by_seed(of_teacher, "word_errors")  # (1, utterances)
    excess = Estimate.of(rate_over(errors - teacher_errors, words, params))
    if of_control.empty:
        return Comparison(
            excess_wer=excess,
            gain_wer=None,
            gain_significant=False,
            gap_closed=None,
            gap_closed_sd=None,
            verdict=_without_control(unit),
            by_seed=(),
        )
    control_errors = errors_by_seed(of_control, "word_errors")  # (seeds, utterances)
    less, gap = control_errors - errors, control_errors - teacher_errors
    gain = rate_over(less, words, params)
    each = [Estimate.of(rate_over(row[None], words, params)) for row in less]
    closed = [gap_closed(*sums) for sums in zip(less.sum(axis=1), gap.sum(axis=1), strict=True)]
    known = [share for share in closed if share is not None]
    return Comparison(
        excess_wer=excess,
        gain_wer_lm=_gain_with_language_model(of_student, of_control, words, params),
        gain_wer=Estimate.of(gain),
        gain_significant=gain.significant,
        gap_closed=gap_closed(less.sum(), gap.sum()),
        gap_closed_sd=spread(known) if len(known) == len(closed) else None,
        verdict=verdict(gain, unit, float(errors.mean(axis=0).sum() / max(1, words.sum())))
        + (f"; {UNKNOWN_TRUTH}" if unit.is_vs_teacher else ""),
        by_seed=tuple(
            SeedGain(seed=seed, gain_wer=result, gap_closed=share)
            for seed, result, share in zip(seeds_of(of_student), each, closed, strict=True)
        ),
    )


def _without_control(unit: Unit) -> str:
    """Return the verdict on a student that has no control."""
    said = "no control was trained: what distillation gained is unknown"
    return f"{said}; {UNKNOWN_TRUTH}" if unit.is_vs_teacher else said


def _gain_with_language_model(
    of_student: pd.DataFrame, of_control: pd.DataFrame, words: np.ndarray, params: EvaluateParams
) -> Estimate | None:
    if not (has_language_model(of_student) and has_language_model(of_control)):
        return None
    errors, control_errors = (
        errors_by_seed(scored, "word_errors_lm") for scored in (of_student, of_control)
    )
    return Estimate.of(rate_over((control_errors - errors).astype(int), words, params))


def gap_closed(errors_less: int, gap: int) -> float | None:
    """Return (control - student) / (control - teacher), None where the teacher is no better.

    Args:
        errors_less: errors of the control minus those of the student.
        gap: errors of the control minus those of the teacher.
    """
    return float(errors_less / gap) if gap > 0 else None


def verdict(gain: SeedsResult, unit: Unit = Unit.WORD, rate: float | None = None) -> str:
    """Return in one sentence what distillation gained.

    Args:
        gain: the control's WER minus the student's.
        unit: what errors are counted in.
        rate: the student's error rate, a fraction; None: it is not known.
    """
    points, low, high = (100 * value for value in (gain.mean, gain.low, gain.high))
    seeds = ""
    if gain.sd is not None:
        seeds = f", mean of {len(gain.by_seed)} seeds, sd {100 * gain.sd:.1f}"
    between = f"({low:.1f} to {high:.1f}){seeds}"
    behind = ""
    if rate is not None and rate >= BROKEN_WER and not gain.low > 0:
        behind = f"the student learnt nothing, its {unit.rate} is {rate:.1%}: "
    if gain.low > 0:
        return f"distillation gained {points:.1f} points of {unit.rate} {between}"
    if gain.high < 0:
        return (
            f"{behind}distillation made it significantly worse, by {-points:.1f} points of "
            f"{unit.rate} ({-high:.1f} to {-low:.1f}){seeds}"
        )
    if points < 0:
        return (
            f"{behind}no gain but a loss of {-points:.1f} points of {unit.rate}, which may be "
            f"chance ({-high:.1f} to {-low:.1f}){seeds}"
        )
    return f"{behind}no significant gain: {points:.1f} points of {unit.rate} {between}"
