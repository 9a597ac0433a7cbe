"""A report that no stage makes, as an MLflow run of its own: `make curve`, `make teachers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillery.credentials import without_credentials
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.tracking.curve_files import Point
from distillery.tracking.names import flatten, pipeline_name
from distillery.tracking.store import Tracking
from distillery.training.curves import run_digest
from tasks.lineage import read_lineage


@dataclass(frozen=True)
class Report:
    """What a run is to hold."""

    role: str
    """What tells such runs from others."""
    command: str
    """What makes up for a run that could not be logged."""
    made_from: Sequence[str]
    """Outputs of stages that it stands on."""
    text: str
    """The run's description, as it stands in a terminal."""
    files: Sequence[str]
    """Below reports/; the first is the table, whose content tells reports apart."""
    points: Sequence[Point] = ()
    """Of curves."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Final figures."""


@dataclass(frozen=True)
class LoggedRun:
    """Where a run is."""

    tracking_uri: str
    """MLflow's address, without credentials."""
    experiment_id: str
    """The experiment that the run is in."""
    run_id: str
    """The run."""


def log_report(root: Path, report: Report) -> LoggedRun:
    """Log a report as a run; an equal one under equal settings is logged once.

    Raises:
        TrackingError: MLflow cannot be reached or refuses; the report stays where it is.
    """
    settings = Params.load(root / PARAMS_FILE)
    tracking = Tracking(settings.register, root, again=report.command)
    lineage = read_lineage(root, report.made_from)
    table = (root / "reports" / report.files[0]).read_text("utf-8")
    hashes = [lineage.outputs[name] for name in report.made_from]
    marks = {
        "distillery.role": report.role,
        f"{report.role}.digest": run_digest(settings.model_dump(), hashes, table),
    }
    with tracking.explained():
        run = tracking.find_run(marks)
        if run is None or tracking.is_open(run):
            data = lineage.tags["dvc.data.md5"]
            name = pipeline_name(report.role, settings.prepare.title, data)
            run = run or tracking.create_run(name, marks)
            values = flatten(settings.model_dump())
            if uri := settings.register.tracking_uri:
                values["register.tracking_uri"] = without_credentials(uri)
            tags = {**lineage.tags, "mlflow.note.content": f"```\n{report.text}\n```"}
            tracking.log_values(run, params=values, metrics=report.metrics, tags=tags)
            tracking.log_points(run, report.points)
            for file in report.files:
                tracking.client.log_artifact(run, str(root / "reports" / file))
            tracking.end_run(run)
    return LoggedRun(without_credentials(tracking.uri), tracking.experiment_id, run)
