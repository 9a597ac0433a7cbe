"""TODO: base."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
NAME_PATTERN = r"[a-z][a-z0-9_-]{0,40}"
StudentName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
INIT_TEACHER = "teacher"
MEMBERS = "members"  # setting, and folder, of an ensemble's
CONFIGURED = "teacher"
"""What `make teachers` calls the teacher of the section `teacher`."""
INIT_REGISTRY = "models:/"
REGISTRY_PATTERN = rf"{INIT_REGISTRY}[^/@]+(@[^/@]+|/[1-9][0-9]*)"
RegistryUri = Annotated[str, Field(pattern=f"^{REGISTRY_PATTERN}$")]


def _other_speeds(factors: tuple[float, ...]) -> tuple[float, ...]:
    if 1.0 in factors:
        raise ValueError("1 is the audio itself, which is always there; remove it")
    if len(set(factors)) < len(factors):
        raise ValueError("a factor stands twice; name each once")
    return factors


def lowest_first(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the ends stand in reverse, expected [{ends[1]:g}, {ends[0]:g}]")
    return ends


Probability = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]
Folder = Annotated[str, Field(min_length=1)]
SpeedFactor = Annotated[float, Field(ge=0.5, le=2.0)]
SpeedFactors = Annotated[tuple[SpeedFactor, ...], AfterValidator(_other_speeds)]


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
