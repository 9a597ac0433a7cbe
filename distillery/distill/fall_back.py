"""Never worse on validation: a student whose control is better there takes its control's weights.

Why, and what it cannot do: docs/decisions/0031-never-worse.md. Imports no model code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import read_json

FELL_BACK_FILE = "fell_back.json"


@dataclass(frozen=True)
class FellBack:
    """What fell_back.json says, beside the weights of a control in the place of its student's."""

    student_valid_wer: float
    """Of the student as it was trained; a fraction, as all rates here."""
    control_valid_wer: float
    """Of the control, whose weights these are."""


def better_control(student_valid_wer: float, control_valid_wer: float) -> FellBack | None:
    """Return what to write where the control is better on validation; None keeps the student.

    Equal rates keep the student.

    Args:
        student_valid_wer: of the epoch that was kept.
        control_valid_wer: likewise, from the same seed.
    """
    if control_valid_wer < student_valid_wer:
        return FellBack(student_valid_wer, control_valid_wer)
    return None


def read_fell_back(folder: Path) -> FellBack | None:
    """Return what lies beside a student that has its control's weights; None: it has its own.

    Args:
        folder: of the saved student.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / FELL_BACK_FILE
    try:
        return read_json(path, FellBack)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ModelError(
            f"{path}: {error}, expected both rates on validation; run make distill again"
        ) from None
