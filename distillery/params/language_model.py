"""The section `language_model`: an n-gram model that beam search can use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from distillery.params.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section

MOVED = {
    "for_students": "register.decoder: {} measures students with n-grams, and serves them with it",
    "learns_from": "register.decoder.language_model.learns_from says it for students, and the "
    "teacher's search knows transcripts alone",
}
"""Settings of former versions, and what says the same now."""


class LanguageModelParams(Section):
    """An n-gram model of the training transcripts, which the teacher's beam search can use in place
    of the best path; words that stand in none of them cannot then be written. What students are
    served with is `register.decoder`."""

    for_teacher: bool = False
    """Whether the teacher's texts, which `sequence` learns from, are decoded with it."""
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

    @model_validator(mode="before")
    @classmethod
    def _told_elsewhere(cls, values: Any) -> Any:
        if isinstance(values, dict) and (old := [name for name in MOVED if name in values]):
            said = "; ".join(f"{name} is no setting any more: {MOVED[name]}" for name in old)
            raise ValueError(f"{said}; remove it here")
        return values
