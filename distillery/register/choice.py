"""Which of a run's small models is put up for promotion: a student, or a control that is better.

The student of the lowest validation WER, as a rule. One that is clearly worse than its control on
the test split is never put up: what the teacher taught it did harm. Then the lowest validation WER
decides among the other students and the controls of those that were passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from distillery.data.units import Unit
from distillery.params.register import GateParams
from distillery.register.gate.rules import gain_over_control
from distillery.tracking.versions import Candidate, best_candidate


@dataclass(frozen=True)
class Choice:
    """What is put up for promotion, and why."""

    best: Candidate
    instead: str = ""
    """In a sentence why a better one was passed over; nothing where none was."""
    passed_over: Mapping[str, str] = field(default_factory=dict)
    """By student, why it may not become champion."""


def choose(
    students: Sequence[Candidate],
    controls: Mapping[str, Candidate],
    predictions: pd.DataFrame,
    gate: GateParams,
    num_resamples: int,
    unit: Unit = Unit.WORD,
) -> Choice:
    """Return the model to put up.

    Args:
        students: of each the best seed, at least one.
        controls: by student, trained from that seed; those that were trained.
        predictions: of all models.
        gate: its confidence counts.
        num_resamples: of the bootstrap.
        unit: what errors are counted in.
    """
    passed_over = {
        student.name: why
        for student in students
        if student.name in controls
        and (why := _why_not(student, predictions, gate, num_resamples, unit)) is not None
    }
    left = [student for student in students if student.name not in passed_over]
    best = best_candidate([*left, *(controls[name] for name in passed_over)])
    first = best_candidate(list(students))
    instead = ""
    if first.name in passed_over:
        instead = f"{best.label} was put up instead of {first.label}, {passed_over[first.name]}"
    return Choice(best, instead, passed_over)


def _why_not(
    student: Candidate,
    predictions: pd.DataFrame,
    gate: GateParams,
    num_resamples: int,
    unit: Unit,
) -> str | None:
    """Return in what a student is clearly worse than its control; None where it is not."""
    of_seed = predictions[predictions["seed"] == student.seed]
    mine, control = (
        of_seed[of_seed["model"] == f"{folder}/{student.name}"].sort_values("utterance_id")
        for folder in ("students", "controls")
    )
    errors, control_errors = (
        scored["word_errors"].to_numpy(np.int64) for scored in (mine, control)
    )
    words = mine["words"].to_numpy(np.int64)
    gain, high = gain_over_control(errors, control_errors, words, gate, num_resamples)
    if high >= 0:
        return None
    own, theirs = (counts.sum() / max(1, words.sum()) for counts in (errors, control_errors))
    return (
        "which is significantly worse than its control, trained without the teacher: "
        f"{unit.rate} {own:.2%} against {theirs:.2%}, {-100 * gain:.1f} points more and, with "
        f"{gate.confidence:.0%} confidence, at least {-100 * high:.1f}"
    )
