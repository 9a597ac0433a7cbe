"""The sections `curve` and `teacher_candidates`: comparisons of models that are no stages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from distillery.params.base import (
    CONFIGURED,
    PositiveFraction,
    PositiveInt,
    Section,
    Seed,
    StudentName,
)
from distillery.params.teacher import TeacherParams


class CurveParams(Section):
    """Settings of `make curve`, which is no stage: WER against the amount of training data."""

    fractions: Annotated[tuple[PositiveFraction, ...], Field(min_length=1)] = (0.1, 0.25, 0.5, 1.0)
    """Shares of the training audio to train on; each costs as much as all of it."""
    students: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Which students are drawn, names under distill.students; null takes all."""

    @model_validator(mode="after")
    def _everything_once(self) -> CurveParams:
        for name, values in (("fractions", self.fractions), ("students", self.students or ())):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} hold one twice; name each once")
        return self


class PilotParams(Section):
    """The short distillation by which `make teachers` ranks teachers."""

    student: StudentName | None = None
    """Which student learns, a name under distill.students; null takes the first."""
    fraction: PositiveFraction = 1.0
    """Share of the training audio that it learns from, and that teachers have to hear; less is
    quicker and says less."""
    num_epochs: PositiveInt = 15
    """Passes over that share; more is nearer to what a whole training gains."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Student and control are trained once from each; several tell luck from gain."""


class TeacherCandidatesParams(Section):
    """Settings of `make teachers`, which is no stage: teachers compared before one is chosen."""

    teachers: dict[StudentName, TeacherParams] = {}
    """By name, what would stand under teacher:; the configured teacher is always one of them."""
    pilot: PilotParams = PilotParams()
    """The distillation that ranks them."""

    @model_validator(mode="after")
    def _the_configured_one_has_its_name(self) -> TeacherCandidatesParams:
        if CONFIGURED in self.teachers:
            raise ValueError(
                f"teachers: {CONFIGURED!r} is what the configured teacher is called, which is a "
                "candidate by itself; choose another name"
            )
        return self
