"""Whether the data moved since the champion was trained on its own.

Every student's run keeps the profile of the data that it was trained on, `data/profile.json`; a
registered version is known by its run.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from distillery.data.workspace import PREPARED
from distillery.errors import ManifestError, TrackingError
from distillery.prepare.profile import PROFILE_FILE, Comparison, compare, read_profile
from distillery.tracking.store import Tracking
from distillery.tracking.versions import CHAMPION, version_of

ARTIFACT_FOLDER = "data"
MAX_TAG_LENGTH = 5000
COMPARED_TAG, NOBODY = "data.compared_with", "none"
NO_CHAMPION = "there is no champion yet"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drift:
    """How the present data differ from the champion's."""

    champion: str | None
    """The version compared with; None where there is no champion."""
    comparison: Comparison | None
    """None where there was nothing to compare."""
    note: str
    """Why nothing was compared; empty where it was."""

    @property
    def warnings(self) -> list[str]:
        """What moved, a sentence each."""
        found = self.comparison.warnings if self.comparison is not None else []
        return [f"data moved since version {self.champion} was trained: {line}" for line in found]

    @property
    def tags(self) -> dict[str, str]:
        """What runs bear."""
        moved = str(bool(self.warnings)).lower() if self.comparison is not None else "unknown"
        found = self.comparison.warnings if self.comparison is not None else [self.note]
        return {
            "data.moved": moved,
            "data.moved.what": ("; ".join(found) or "nothing")[:MAX_TAG_LENGTH],
            COMPARED_TAG: self.champion or NOBODY,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Population stability indices, by split and measure."""
        shifts = self.comparison.shifts if self.comparison is not None else []
        return {f"data/psi/{shift.split}/{shift.measure}": shift.psi for shift in shifts}


def drift_from_champion(
    tracking: Tracking, model_name: str, root: Path, own: Collection[str] = ()
) -> Drift:
    """Compare the workspace's data with those of the champion.

    That a profile is missing or damaged is a note, no error.

    Args:
        tracking: the connection.
        model_name: the registered model.
        root: the workspace.
        own: versions that came of these very data. If one of them is champion by now, the data are
            compared with the version that they were compared with before it was.
    """
    try:
        version = version_of(tracking, f"models:/{model_name}@{CHAMPION}")
    except TrackingError:
        return Drift(None, None, NO_CHAMPION)
    number = str(version.version)
    if number in own:
        with tracking.explained():
            tags = tracking.client.get_run(str(version.run_id)).data.tags
        former = tags.get(COMPARED_TAG, number)
        if former == NOBODY:
            return Drift(None, None, NO_CHAMPION)
        try:
            version = version_of(tracking, f"models:/{model_name}/{former}")
        except TrackingError:
            return Drift(former, None, f"version {former} is not in the registry any more")
        number = former
    try:
        profile = read_profile(root / PREPARED / PROFILE_FILE)
        with tempfile.TemporaryDirectory() as folder, tracking.explained():
            name = f"{ARTIFACT_FOLDER}/{PROFILE_FILE}"
            path = tracking.client.download_artifacts(str(version.run_id), name, folder)
            reference = read_profile(Path(path))
    except ManifestError as error:
        return Drift(number, None, str(error))
    except TrackingError:
        return Drift(number, None, f"the run of version {number} keeps no profile of its data")
    return Drift(number, compare(profile, reference), "")


def log_drift(
    tracking: Tracking, parent: str, students: Iterable[str], drift: Drift, root: Path
) -> None:
    """Log the profile and what moved, to a pipeline's run and to those of its students.

    Args:
        tracking: the connection.
        parent: the pipeline's run.
        students: runs of students and controls.
        drift: the comparison.
        root: the workspace.
    """
    for line in drift.warnings:
        logger.warning("%s", line)
    profile = root / PREPARED / PROFILE_FILE
    for run in (parent, *students):
        metrics = drift.metrics if run == parent else {}
        tracking.log_values(run, params={}, metrics=metrics, tags=drift.tags)
        if profile.exists():
            tracking.client.log_artifact(run, str(profile), ARTIFACT_FOLDER)
