"""The section `retraining`: when and how `make retrain` and `make schedule` work."""

from __future__ import annotations

import zoneinfo
from typing import Annotated

from pydantic import AfterValidator, Field

from distillery.params.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, Section


def _known_timezone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError("no such time zone; UTC never skips or repeats an hour")
    return name


class RetrainingParams(Section):
    """Settings of `make retrain` and `make schedule`, which are no stage."""

    cron: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] = "0 3 * * *"
    """When `make schedule` retrains: minute, hour, day of month, month, day of week."""
    timezone: Annotated[str, AfterValidator(_known_timezone)] = "UTC"
    """Whose clock `cron` means; outside UTC one hour of the year comes twice and one never."""
    force: bool = False
    """Whether to run although nothing is new: aliases are followed, and the results registered."""
    pull: bool = True
    """Whether to get what dvc.lock names and is not here from DVC's remote; `make run` likewise."""
    push: bool = True
    """Whether to send new data, cache and models to DVC's remote."""
    commit: bool = False
    """Whether to commit dvc.lock, and the file of a corpus that DVC keeps, after a run."""
    timeout_hours: PositiveFloat = 24.0
    """A run that takes longer is stopped; the next goes on with what is done."""
    transfer_timeout_minutes: PositiveFloat = 60.0
    """One pull or push that takes longer is stopped and counts as failed."""
    retries: NonNegativeInt = 2
    """How often a failed pull or push is tried again; a failed stage never is."""
    retry_delay_seconds: NonNegativeFloat = 30.0
    """Wait before each such retry, in seconds."""
