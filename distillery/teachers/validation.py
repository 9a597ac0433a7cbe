"""How well a teacher does on the validation split, measured alike for every kind."""

from __future__ import annotations

from distillery.datasets import labelled
from distillery.manifest import PreparedData
from distillery.scoring import Counts, count_errors
from distillery.teachers.base import Teacher

VALIDATION_FILE = "validation.json"
"""Beside a saved teacher: `wer`, a fraction."""
BATCH_UTTERANCES = 16


def validation_wer(teacher: Teacher, data: PreparedData) -> float:
    """Return the word error rate on the transcribed validation utterances, as a fraction.

    Raises:
        CorpusError: there is none.
    """
    rows = labelled(data, "valid").sort_values(["num_samples", "audio_key"])
    total = Counts(0, 0, 0, 0)
    for start in range(0, len(rows), BATCH_UTTERANCES):
        batch = list(rows.iloc[start : start + BATCH_UTTERANCES].itertuples())
        texts = teacher.transcribe([data.waveform(row) for row in batch])
        for row, text in zip(batch, texts, strict=True):
            total = total + count_errors(str(row.text).split(), text.split())
    return total.rate
