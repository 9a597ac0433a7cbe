"""What MLflow knows of a registered version: settings, figures and predictions of its run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distillery.tracking.store import PARENT_TAG, Tracking
from distillery.tracking.versions import version_of

if TYPE_CHECKING:
    import pandas as pd

PREDICTIONS_FILE = "predictions.json"


@dataclass(frozen=True)
class Facts:
    """A version, and what made it; empty where MLflow does not know."""

    name: str
    """Of the registered model."""
    number: str
    """Of the version."""
    tags: Mapping[str, str]
    """The version's."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Settings of its own run."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The whole of params.yaml, flat, of the pipeline's run."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    splits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Rows, seconds and speakers of each split, by the part of its name behind the last dash."""
    predictions: pd.DataFrame | None = None
    """What it heard in its test split, one row an utterance."""

    def setting(self, name: str) -> str | None:
        """Return a setting of its own run, or of the pipeline's; None where none is set."""
        value = self.own.get(name, self.settings.get(name, "None"))
        return None if value in ("None", "") else value


def facts_of(tracking: Tracking, model_uri: str) -> Facts:
    """Return what is known of a version.

    Args:
        tracking: the connection.
        model_uri: as of `version_of`.

    Raises:
        TrackingError: there is no such version, or MLflow cannot be reached.
    """
    with tracking.explained():
        version = version_of(tracking, model_uri)
        facts = Facts(version.name, str(version.version), dict(version.tags))
        if not version.run_id or not tracking.holds(version.run_id):
            return facts
        run = tracking.client.get_run(version.run_id)
        parent = run.data.tags.get(PARENT_TAG)
        settings: Mapping[str, str] = {}
        if parent is not None and tracking.holds(parent):
            settings = tracking.client.get_run(parent).data.params
        splits = {
            item.dataset.name.rpartition("-")[2]: json.loads(item.dataset.profile or "{}")
            for item in (run.inputs.dataset_inputs if run.inputs else [])
        }
        return Facts(
            facts.name,
            facts.number,
            facts.tags,
            run.data.params,
            settings,
            run.data.metrics,
            splits,
            _predictions(tracking, version.run_id),
        )


def _predictions(tracking: Tracking, run: str) -> pd.DataFrame | None:
    import pandas as pd

    content = tracking.read_text(run, PREDICTIONS_FILE)
    if content is None:
        return None
    table: pd.DataFrame = pd.read_json(io.StringIO(content), orient="split", dtype={"speaker": str})
    return table
