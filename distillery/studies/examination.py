"""A teacher on the validation split: what it hears, how far it can be believed, what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pandas as pd
from pydantic import BaseModel, ConfigDict

from distillery.data.manifest import PreparedData
from distillery.data.text import SPACE, Vocabulary
from distillery.device import num_threads
from distillery.models.base import Teacher
from distillery.models.decoding import greedy_text
from distillery.models.recogniser import Outputs
from distillery.params.cache import CacheParams
from distillery.studies.calibration import Outcomes, calibration, text_outcomes, token_outcomes
from distillery.teacher_cache.filling.plan import plan_batches

UNSAYABLE = -1
"""Stands for a character that a teacher has no token for."""


class Examination(BaseModel):
    """What one pass over the split showed."""

    model_config = ConfigDict(frozen=True)

    texts: list[str]
    """In the order of the rows."""
    calibration_error: float | None
    """Expected calibration error, as a fraction; None where it said nothing."""
    calibrated_over: str
    """What that counts: `tokens`, or `texts` of a teacher that finds them in its own way."""
    teacher_seconds: float
    """Time that it took the teacher, reading the audio aside."""
    audio_seconds: float
    """Length of what it heard."""


def examine(
    teacher: Teacher, data: PreparedData, rows: pd.DataFrame, params: CacheParams
) -> Examination:
    """Let a teacher hear some transcribed utterances, as the stage `cache` would have it.

    Args:
        teacher: where it is to run.
        data: prepared data.
        rows: its utterances, index reset.
        params: settings of the stage `cache`: batches, threads, arithmetic.

    Raises:
        ModelError: the teacher cannot hear them.
    """
    texts, outcomes, seconds, is_of_texts = [""] * len(rows), Outcomes([], []), 0.0, False
    listed, references = list(rows.itertuples()), list(rows["text"])
    batches = plan_batches(rows, params.batch_seconds)
    with num_threads(params.num_threads):
        for number, batch in enumerate([batches[0], *batches]):
            waveforms = [data.waveform(listed[row]) for row in batch]
            started = time.perf_counter()
            outputs = teacher.forward(*teacher.extract(waveforms), precision=params.precision)
            if number == 0:
                continue  # the first pass pays for what is set up once
            seconds += time.perf_counter() - started
            spoken = [references[row] for row in batch]
            heard, sure = _heard(teacher, outputs, spoken)
            for row, text in zip(batch, heard, strict=True):
                texts[row] = text
            outcomes = outcomes + sure
            is_of_texts = outputs.hypotheses is not None
    return Examination(
        texts=texts,
        calibration_error=calibration(outcomes).expected_error,
        calibrated_over="texts" if is_of_texts else "tokens",
        teacher_seconds=seconds,
        audio_seconds=float(rows["duration_seconds"].sum()),
    )


def _heard(teacher: Teacher, outputs: Outputs, spoken: Sequence[str]) -> tuple[list[str], Outcomes]:
    """Return a batch's texts, and how sure the teacher was and whether it was right."""
    if outputs.hypotheses is not None:
        texts = [items[0][0] if items else "" for items in outputs.hypotheses]
        return texts, text_outcomes(outputs.confidences or [], texts, spoken)
    vocabulary, outcomes = teacher.vocabulary, Outcomes([], [])
    for item, text in zip(outputs.items, spoken, strict=True):
        outcomes = outcomes + token_outcomes(item, _tokens(text, vocabulary))
    return [greedy_text(item, vocabulary) for item in outputs.items], outcomes


def _tokens(text: str, vocabulary: Vocabulary) -> list[int]:
    """Return a text's tokens; UNSAYABLE stands for a character that the teacher has none for."""
    index = {token: position for position, token in enumerate(vocabulary.tokens)}
    return [index.get(character, UNSAYABLE) for character in text.replace(" ", SPACE)]
