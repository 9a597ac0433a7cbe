"""What the sections have in common: their base, and the kinds of values that several hold."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

INIT_TEACHER = "teacher"
"""`init` of a student that starts from its teacher's layers."""
INIT_REGISTRY = "models:/"
"""How a registered model's name begins, as MLflow writes it."""
MEMBERS = "members"
"""Setting of an ensemble, and folder of its members."""
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
CONFIGURED = "teacher"
"""What `make teachers` calls the teacher of the section `teacher`."""
REGISTRY_PATTERN = rf"{INIT_REGISTRY}[^/@]+(@[^/@]+|/[1-9][0-9]*)"


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def lowest_first(ends: tuple[float, float]) -> tuple[float, float]:
    """Return the two ends of a range unless they stand in reverse."""
    if ends[0] > ends[1]:
        raise ValueError(f"the ends stand in reverse, expected [{ends[1]:g}, {ends[0]:g}]")
    return ends


def _a_device(value: str) -> str:
    if DEVICE.fullmatch(value) is None:
        raise ValueError(f"expected auto, cpu, cuda, or one GPU such as cuda:1, found {value!r}")
    return value


def _other_speeds(factors: tuple[float, ...]) -> tuple[float, ...]:
    if 1.0 in factors:
        raise ValueError("1 is the audio itself, which is always there; remove it")
    if len(set(factors)) < len(factors):
        raise ValueError("a factor occurs twice; name each once")
    return factors


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]
Confidence = Annotated[float, Field(gt=0.5, lt=1.0)]
SampleRate = Annotated[int, Field(ge=4000, le=48000)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
NonEmptyText = Annotated[str, Field(min_length=1)]
StudentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
Device = Annotated[str, AfterValidator(_a_device)]
"""Where to compute: `auto`, `cpu`, `cuda`, or one GPU of several, `cuda:1`."""
RegistryUri = Annotated[str, Field(pattern=f"^{REGISTRY_PATTERN}$")]
SpeedFactors = Annotated[
    tuple[Annotated[float, Field(ge=0.5, le=2.0)], ...], AfterValidator(_other_speeds)
]
