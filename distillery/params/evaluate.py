"""The section `evaluate`: how models are measured on the test split."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distillery.params.base import Confidence, PositiveFloat, PositiveInt, Section


class EvaluateParams(Section):
    """Settings of the stage `evaluate`."""

    num_resamples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples; more makes the interval's ends steadier."""
    confidence: Confidence = 0.95
    """Coverage of the intervals."""
    speed_seconds: PositiveFloat = 10.0
    """Length of the recording on which the real-time factor is measured, in seconds."""
    speed_repeats: PositiveInt = 10
    """Timed passes per model, after a warm-up; the median counts."""
    stream_chunk_seconds: PositiveFloat = 0.32
    """Audio that a streaming student hears at once, in seconds; shorter costs more computing."""
