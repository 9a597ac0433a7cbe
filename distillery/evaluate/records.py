"""The base of what reports hold: frozen, typed, and written as the JSON that it was read from.

In JSON an estimate stands flat among the other entries, `wer`, `wer_sd`, `wer_low` and `wer_high`;
in Python it is one `Estimate`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from distillery.data.scoring import SeedsResult

ENDINGS = {"value": "", "sd": "_sd", "low": "_low", "high": "_high"}
"""What the parts of an estimate are called in JSON, behind its name."""


class Estimate(BaseModel):
    """A rate, or a difference of rates, and how far it can be trusted; all are fractions."""

    model_config = ConfigDict(frozen=True)

    value: float
    """The mean over the seeds."""
    sd: float | None
    """Standard deviation over the seeds; None with one seed."""
    low: float
    """Lower end of the interval of the mean."""
    high: float
    """Upper end of that interval."""

    @classmethod
    def of(cls, result: SeedsResult) -> Self:
        """Return a result over seeds as an estimate."""
        return cls(value=result.mean, sd=result.sd, low=result.low, high=result.high)

    @property
    def complement(self) -> Self:
        """What is left to one: an accuracy where this is a rate of errors."""
        ends = {"low": 1 - self.high, "high": 1 - self.low}
        return self.model_copy(update={"value": 1 - self.value, **ends})

    def entries(self, name: str) -> dict[str, float | None]:
        """Return its parts as they stand in JSON, each under the name and an ending."""
        return {f"{name}{ending}": getattr(self, part) for part, ending in ENDINGS.items()}


class Record(BaseModel):
    """Base of all records; entries that one does not know, of another version, are left out."""

    model_config = ConfigDict(frozen=True)

    def entries(self, names: Collection[str] | None = None) -> dict[str, object]:
        """Return what JSON holds of it; a field that has its default is no entry.

        Args:
            names: the fields wanted; None: all.
        """
        wanted = None if names is None else set(names)
        return self.model_dump(include=wanted, exclude_defaults=True)

    @classmethod
    def _estimates(cls) -> list[str]:
        """Return the names of the fields that are estimates, or None."""
        return [
            name
            for name, field in cls.model_fields.items()
            if Estimate in (field.annotation, *get_args(field.annotation))
        ]

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, content: Any) -> Any:
        """Put the parts of each estimate together, where they come from JSON."""
        if not isinstance(content, Mapping):
            return content
        gathered = dict(content)
        for name in cls._estimates():
            if isinstance(content.get(name), int | float):
                gathered[name] = {
                    part: content.get(f"{name}{ending}") for part, ending in ENDINGS.items()
                }
        return gathered

    @model_serializer(mode="wrap")
    def _lay_flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Undo `_gather`; of an estimate that is None, every part is."""
        content: dict[str, object] = handler(self)
        flat: dict[str, object] = {}
        estimates = self._estimates()
        for name, value in content.items():
            if name not in estimates:
                flat[name] = value
            elif (estimate := getattr(self, name)) is None:
                flat |= {f"{name}{ending}": None for ending in ENDINGS.values()}
            else:
                flat |= estimate.entries(name)
        return flat
