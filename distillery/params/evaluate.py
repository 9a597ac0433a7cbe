"""TODO: evaluate."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    Field,
)

from distillery.params.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class EvaluateParams(Section):
    """Settings of the stage `evaluate`."""

    num_resamples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples; more makes the interval's ends steadier."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the intervals."""
    speed_seconds: PositiveFloat = 10.0
    """Length of the recording on which the real-time factor is measured, in seconds."""
    speed_repeats: PositiveInt = 10
    """Timed passes per model, after a warm-up; the median counts."""
    stream_chunk_seconds: PositiveFloat = 0.32
    """Audio that a streaming student hears at once, in seconds; shorter costs more computing."""


class LanguageModelParams(Section):
    """An n-gram model of the training transcripts, which beam search can use in place of the best
    path; words that stand in no training transcript cannot then be written."""

    for_teacher: bool = False
    """Whether the teacher's texts, which `sequence` learns from, are decoded with it."""
    for_students: bool = False
    """Whether `evaluate` measures students and controls with it, too."""
    order: Annotated[int, Field(ge=2, le=5)] = 3
    """Words in its longest n-grams; more knows longer phrases and needs more transcripts."""
    beam_size: PositiveInt = 20
    """Beams of the search; more find better texts and take longer."""
    beam_threshold: PositiveFloat = 10.0
    """Nats below the best at which a beam is given up; larger searches more and takes longer."""
    weights: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
        1.5,
    )
    """How much the model counts against the audio: the best on the validation split is taken;
    larger trusts it more, 0 uses its words alone."""
    word_scores: Annotated[
        tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1)
    ] = (0.0, 1.0, 2.0, 3.0)
    """What each word adds, in nats: the best is taken; larger makes up for short texts."""

    @property
    def is_used(self) -> bool:
        """Whether anything is decoded with it."""
        return self.for_teacher or self.for_students
