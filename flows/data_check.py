"""Whether prepared data moved away from the champion's, said before hours of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distillery.errors import TrackingError
from distillery.params.register import RegisterParams
from distillery.register.drift import drift_from_champion
from distillery.tracking.store import DATABASE_FILE, Tracking


def warn_of_moved_data(root: Path, settings: RegisterParams, warn: Callable[[str], object]) -> None:
    """Say what moved since the champion was trained; `register` says it again, and logs it.

    Args:
        root: the workspace, with prepared data.
        settings: where the registry is; one that cannot be reached is said, and is no error.
        warn: takes each sentence.
    """
    if settings.tracking_uri is None and not (root / DATABASE_FILE).exists():
        return  # nothing was registered here yet
    try:
        tracking = Tracking(settings, root)
        with tracking.explained():
            drift = drift_from_champion(tracking, settings.model_name, root)
    except TrackingError as error:
        warn(f"the data were not compared with the champion's: {error}")
        return
    for line in drift.warnings:
        warn(line)
