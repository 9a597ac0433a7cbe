"""What `make curve` does once the cache is up to date: python -m flows.run --curve."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from distillery.data.manifest import PreparedData
from distillery.data.workspace import PREPARED
from distillery.params.whole import Params
from distillery.studies import curve_report, data_curve
from flows.looking_back.results import mlflow_link
from flows.stages import pipeline
from tasks.studies.curve import curve, log_curve

logger = logging.getLogger(__name__)


def run(root: Path, settings: Params, emit: Callable[[str], None]) -> None:
    """Train, score and draw the curves, and log them to MLflow.

    The models of all data are those of the stage `distill`, which DVC runs where it has to.

    Args:
        root: a workspace whose cache is up to date, and whose lock the caller holds.
        settings: the whole of params.yaml.
        emit: receives each line for the user.

    Raises:
        TrackingError: MLflow cannot be reached or refuses; by then all else is done.
        DistilleryError: what training and evaluating raise.
    """
    # Tell what is unfit before anything is trained.
    data_curve.amounts(PreparedData.open(root / PREPARED), settings)
    if 1.0 in settings.curve.fractions:
        for student in settings.curve_students:
            for seed in settings.distill.seeds:
                done = pipeline.run_stage(root, pipeline.distill_target(student, seed), emit)
                logger.info("%s: %s (%.1f s)", done.target, done.outcome, done.seconds)
    results = curve(root)
    reports = root / "reports"
    emit(f"\n{curve_report.render(results)}\n")
    emit(f"Written: {reports / curve_report.CSV_FILE}, {reports / curve_report.PLOT_FILE}")
    logged = log_curve(root, results)
    link = mlflow_link(logged.tracking_uri, logged.experiment_id, logged.run_id)
    emit(f"MLflow run: {link}  (make ui)")
