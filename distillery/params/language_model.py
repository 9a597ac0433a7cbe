"""The section `language_model`: an n-gram model that beam search can use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillery.params.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class LanguageModelParams(Section):
    """An n-gram model of the training texts, which beam search can use in place of the best path;
    words that stand in none of them cannot then be written."""

    for_teacher: bool = False
    """Whether the teacher's texts, which `sequence` learns from, are decoded with it."""
    for_students: bool = False
    """Whether `evaluate` measures students and controls with it, too."""
    learns_from: Literal["transcripts", "teacher", "both"] = "both"
    """Texts that it is estimated from in `evaluate`: training transcripts; those of the teacher
    that distill.filter keeps; or transcripts, and the teacher's where there is none. The teacher's
    own search (`for_teacher`) comes before its texts, and knows transcripts alone."""
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
