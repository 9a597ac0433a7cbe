"""A run as one HTML page: python -m flows.looking_back.report [RUN].

Without one, the last that ended.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from distillery.data.manifest import PreparedData
from distillery.data.workspace import PREPARED
from distillery.errors import DistilleryError, StageError
from distillery.evaluate.summary import PREDICTIONS_FILE, Summary
from distillery.files import write_bytes
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.register.gate.verdict import GATE_FILE, parse_verdict
from distillery.register.run_page import Play, ReportInputs, render_page
from distillery.tracking.names import STUDENT, model_label
from distillery.tracking.store import PARENT_TAG, Tracking
from flows import environment
from flows.looking_back.reproduce import run_of
from tasks.lineage import LOCK_FILE, locked_outputs

FOLDER = "reports/runs"
ARTIFACT = "report.html"
HISTORY_PLOT = "reports/retraining.png"
GATE = Path(GATE_FILE).name
LINEAGE = ("git.", "dvc.", "teacher.", "cache.", "trigger", "prefect.")

logger = logging.getLogger(__name__)


def find_parent(tracking: Tracking, model_name: str, wanted: str | None) -> str:
    """Return the pipeline run that somebody means.

    Args:
        tracking: the connection to MLflow.
        model_name: the registered model, for a version given by its number alone.
        wanted: as in `flows.looking_back.reproduce.find_origin`; None: the last pipeline run
            that ended well.

    Raises:
        StageError: there is none.
        TrackingError: MLflow cannot be reached, or knows no such thing.
    """
    with tracking.explained():
        if wanted is None:
            found = tracking.client.search_runs(
                [tracking.experiment_id],
                "tags.`distillery.role` = 'pipeline' and attributes.status = 'FINISHED'",
                max_results=1,
                order_by=["attributes.start_time DESC"],
            )
            if not found:
                raise StageError("MLflow: holds no finished pipeline run; run make run first")
            return str(found[0].info.run_id)
        run = tracking.client.get_run(run_of(tracking, model_name, wanted))
        return str(run.data.tags.get(PARENT_TAG, run.info.run_id))


def gather(tracking: Tracking, run: str, folder: Path) -> ReportInputs:
    """Return what MLflow holds of a pipeline run.

    Args:
        tracking: the connection to MLflow.
        run: the pipeline's run.
        folder: an empty one, for what is downloaded.

    Raises:
        StageError: the run was never evaluated.
        TrackingError: MLflow cannot be reached.
    """
    with tracking.explained():
        entity = tracking.client.get_run(run)
        names = {item.path for item in tracking.client.list_artifacts(run)}
        if "evaluation" not in names:
            raise StageError(f"run {run}: holds no evaluation; choose a run that ended well")
        for name in names & {"evaluation", PARAMS_FILE, GATE}:
            tracking.client.download_artifacts(run, name, str(folder))
    tags = entity.data.tags
    role = tags.get("registered.role", STUDENT)  # runs of before have none
    label = model_label(role, tags["student"])
    settings, gate = folder / PARAMS_FILE, folder / GATE
    return ReportInputs(
        heading=entity.info.run_name or run,
        outcome=(
            f"{label[0].upper()}{label[1:]} from seed {tags['registered.seed']} is version "
            f"{tags['registered.version']} of {tags['registered.model']}: "
            f"{tags.get('registered.alias') or 'without an alias'} "
            f"({tags.get('registered.reason', 'no reason given')})."
        ),
        summary=Summary.read(folder / "evaluation"),
        predictions=pd.read_parquet(folder / "evaluation" / PREDICTIONS_FILE),
        student=f"{role}s/{tags['student']}",
        seed=int(tags["registered.seed"]),
        plots={
            path.stem: path.read_bytes() for path in sorted(folder.glob("evaluation/plots/*.png"))
        },
        gate=parse_verdict(gate.read_text("utf-8")) if gate.exists() else None,
        lineage={
            name: value
            for name, value in {"run": run, **tags}.items()
            if name == "run" or name.startswith(LINEAGE)
        },
        settings=settings.read_text("utf-8") if settings.exists() else "",
    )


def recordings(root: Path, data_md5: str) -> Play | None:
    """Return where the test split's audio comes from, None where other data are prepared here."""
    try:
        if locked_outputs(root / LOCK_FILE).get(PREPARED) != data_md5:
            return None
        data = PreparedData.open(root / PREPARED)
    except DistilleryError:
        return None
    rows = {str(row.utterance_id): row for row in data.split("test").itertuples()}

    def play(utterance_id: str) -> tuple[np.ndarray, int] | None:
        row = rows.get(utterance_id)
        return None if row is None else (data.waveform(row), data.sample_rate_hz)

    return play


def write_report(root: Path, tracking: Tracking, run: str) -> Path:
    """Write a pipeline run's page into the workspace, put it beside the run, return its path.

    Raises:
        StageError: the run was never evaluated.
        TrackingError: MLflow cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs = gather(tracking, run, Path(folder))
    if (history := root / HISTORY_PLOT).exists():
        inputs = replace(inputs, plots={**inputs.plots, "history": history.read_bytes()})
    play = recordings(root, inputs.lineage.get("dvc.data.md5", ""))
    if play is None:
        logger.warning("report: the data of this run are not prepared here; examples are silent")
    page = root / FOLDER / run / ARTIFACT
    page.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(page, render_page(inputs, play).encode())
    with tracking.explained():
        tracking.client.log_artifact(run, str(page))
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page of a run of the current workspace's MLflow, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.looking_back.report", description=__doc__
    )
    parser.add_argument(
        "run", nargs="?", help="an MLflow run, models:/NAME/VERSION or @ALIAS, or N"
    )
    options = parser.parse_args(arguments)
    root = Path.cwd()
    environment.apply(root)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    try:
        settings = Params.load(root / PARAMS_FILE).register
        tracking = Tracking(settings, root, again="make report")
        run = find_parent(tracking, settings.model_name, options.run)
        page = write_report(root, tracking, run)
    except DistilleryError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 1
    logger.info("Written: %s (also beside the run in MLflow)", page.relative_to(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
