"""How well a teacher does on the validation split, measured alike for every kind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from distillery.data.judged import VALIDATION_FILE, ValidationResult, splits_without_truth
from distillery.data.lengths import in_batches_by_length
from distillery.data.manifest import PreparedData, labelled
from distillery.data.scoring import Counts, count_text_errors
from distillery.data.units import Unit
from distillery.errors import CorpusError, ModelError
from distillery.files import read_json
from distillery.models.base import Teacher, lacking, may_lack

BATCH_UTTERANCES = 16

logger = logging.getLogger(__name__)


def validation_wer(teacher: Teacher, data: PreparedData) -> float:
    """Return the rate of errors on the transcribed validation utterances, as a fraction.

    Of words or of characters, as the data are counted. Where a teacher is a file of texts, those
    that it has no text of are left out, and counted in the log.

    Raises:
        CorpusError: there is none.
        ModelError: the teacher's file holds the text of none of them.
    """
    total, unit = Counts(0, 0, 0, 0), data.unit_of("valid")
    for row, text in _heard(teacher, data, _known_to(teacher, data, labelled(data, "valid"))):
        total = total + count_text_errors(str(row.text), text, unit)
    return total.rate


def validate_teacher(teacher: Teacher, data: PreparedData) -> ValidationResult:
    """Return the teacher's rate of errors, and its texts where they must stand for the truth.

    Raises:
        CorpusError: it writes nothing in a split that says nothing of what is spoken.
    """
    texts: dict[str, str] = {}
    bare = splits_without_truth(data)
    for split in bare:
        rows = data.split(split)
        found = {str(row.audio_key): text for row, text in _heard(teacher, data, rows) if text}
        if not found:
            raise CorpusError(
                f"split {split}: nothing says what is spoken there, and the teacher hears no word "
                f"in its {len(rows)} utterances, so no model can be judged on it; add a few "
                "transcripts, or take another teacher"
            )
        texts |= found
    wer = None if "valid" in bare else validation_wer(teacher, data)
    return ValidationResult(wer, texts)


def _heard(teacher: Teacher, data: PreparedData, rows: pd.DataFrame) -> Iterator[tuple[Any, str]]:
    """Yield what a teacher writes of utterances, batches of similar lengths."""
    rows = rows.sort_values(["num_samples", "audio_key"])
    listed, lengths = list(rows.itertuples()), rows["num_samples"].to_numpy()
    order = range(len(listed))
    for positions in in_batches_by_length(order, lengths, max_items=BATCH_UTTERANCES):
        batch = [listed[position] for position in positions]
        texts = teacher.transcribe([data.waveform(row) for row in batch])
        yield from zip(batch, texts, strict=True)


def _known_to(teacher: Teacher, data: PreparedData, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the utterances that a teacher knows something of.

    Raises:
        ModelError: there is none.
    """
    if not may_lack(teacher):
        return rows
    known = [not lacking(teacher, [data.waveform(row)])[0] for row in rows.itertuples()]
    if all(known):
        return rows
    if not any(known):
        raise ModelError(
            f"teacher: holds no text of any of the {len(rows)} transcribed validation utterances, "
            "so its errors cannot be counted; let the recogniser write those, too"
        )
    logger.warning(
        "teacher: validation over %d of %d utterances, there is no text of the others",
        sum(known),
        len(rows),
    )
    return rows[known]


def check_not_poor(
    folder: Path, student: str, control_wer: float, *, allow_poor: bool, unit: Unit = Unit.WORD
) -> str:
    """Make sure that a teacher knows more than a student that learnt nothing from it.

    Args:
        folder: of the saved teacher.
        student: whose control it is compared with.
        control_wer: of that control, on the validation split, as a fraction.
        allow_poor: whether a worse teacher may go on.
        unit: what errors are counted in.

    Returns:
        What was found, in a line for a person.

    Raises:
        ModelError: the teacher is worse, and may not go on.
    """
    try:
        wer = read_json(folder / VALIDATION_FILE, ValidationResult).wer
    except (OSError, ValueError):
        wer = None
    if wer is None:
        path = folder / VALIDATION_FILE
        return f"teacher not compared with the control: {path} holds no {unit.rate}"
    found = (
        f"teacher: validation {unit.rate} {100 * wer:.2f} %, that of the control of student "
        f"{student!r}, which learnt from transcripts alone, is {100 * control_wer:.2f} %"
    )
    if wer > control_wer and not allow_poor:
        raise ModelError(
            f"{found}; a teacher should know more than that. Choose another one (make teachers "
            "compares some) or train it longer; or set teacher.allow_poor to true to go on"
        )
    return found
