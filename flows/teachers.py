"""What `make teachers` does once the data are prepared: python -m flows.run --teachers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from distillery.errors import BusyError, DistilleryError
from distillery.params.whole import Params
from distillery.studies import teacher_report
from flows.fetch import fetch, fetch_teacher, readers_that_run_anyway
from flows.looking_back.results import mlflow_link
from flows.stages import pipeline
from tasks.studies.teacher_study import FOLDER
from tasks.studies.teachers import log_teachers, teachers

logger = logging.getLogger(__name__)


def run(root: Path, settings: Params, emit: Callable[[str], None]) -> None:
    """Compare the candidates, show the table, and log it to MLflow.

    The configured teacher and its cache are those of their stages, which DVC runs where it has to.

    Args:
        root: a workspace with prepared data, whose lock the caller holds.
        settings: the whole of params.yaml.
        emit: receives each line for the user.

    Raises:
        BusyError: another DVC process works here.
        TrackingError: MLflow cannot be reached or refuses; by then all else is done.
        DistilleryError: nothing can be compared.
    """
    choice = teachers(root, get_ready(root, settings, emit))
    reports = root / "reports"
    emit(f"\n{teacher_report.render(choice)}\n")
    names = (teacher_report.CSV_FILE, teacher_report.JSON_FILE, teacher_report.PLOT_FILE)
    emit(f"Written: {', '.join(str(reports / name) for name in names)}")
    logged = log_teachers(root, choice)
    link = mlflow_link(logged.tracking_uri, logged.experiment_id, logged.run_id)
    emit(f"MLflow run: {link}  (make ui)")


def get_ready(root: Path, settings: Params, emit: Callable[[str], None]) -> dict[str, str]:
    """Bring here what candidates are made from, and run the stages of the configured teacher.

    Returns:
        Why some candidates cannot be tried, by name.

    Raises:
        BusyError: another DVC process works here.
    """
    failed = {}
    for name, candidate in settings.all_candidates.items():
        try:
            if settings.is_configured(candidate):
                _run_stages(root, settings, emit)
                continue
            alone = settings.model_copy(update={"teacher": candidate})
            for line in fetch_teacher(root, alone, root / FOLDER / name / "registered"):
                logger.info("%s: %s", name, line)
        except BusyError:
            raise
        except DistilleryError as error:
            logger.warning("%s: %s", name, error)
            failed[name] = str(error)
    return failed


def _run_stages(root: Path, settings: Params, emit: Callable[[str], None]) -> None:
    for line in fetch(root, settings, readers_that_run_anyway(root, settings)):
        logger.info("%s", line)
    for target in ("fetch", "teacher", "cache"):
        done = pipeline.run_stage(root, target, emit)
        logger.info("%s: %s (%.1f s)", done.target, done.outcome, done.seconds)
