"""MLflow: the store, its runs, and learning curves that may be sent any number of times.

In the library only this package imports mlflow: here and in `versions.py` late, for the import
takes seconds, and in `serving_model.py`, which MLflow loads by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.credentials import without_credentials
from distillery.errors import DistilleryError, TrackingError
from distillery.params.register import RegisterParams
from distillery.tracking.curve_files import Point
from distillery.tracking.drivers import in_a_line, is_of_a_store, missing_driver
from distillery.tracking.user import person

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

DATABASE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"
CREATION_LOCK = "scratch/mlflow.lock"
MODEL_TAG = "distillery.model"
OBJECTIVE_TAG = "distillery.objective"
"""Of a student's or control's run: the objective in short, as in its name."""
CONVERGED_TAG = "converged"
"""Of a student's or control's run: yes where validation had stopped improving, or no."""
FELL_BACK_TAG = "fell_back"
"""Of a student's run: yes where its control was better on validation and it has the control's
weights, or no. Of a version: yes, or none."""
UNIT_TAG = "unit"
"""What errors are counted in, word or character; older runs and versions have none, and words."""
PARENT_TAG = "mlflow.parentRunId"
USER_TAG = "mlflow.user"
"""Of a run: who made it, in the column of MLflow's pages that is called so."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # the word: MLflow does not take "1"
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default one call to a dead server takes minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
DESCRIPTION_TAG = "mlflow.note.content"
"""Of runs and experiments: what their page shows above all else, as Markdown."""
OWN_DESCRIPTION_TAG = "distillery.description_sha256"
"""Of an experiment: digests of descriptions that were written here, not by a person."""
# MLflow then opens its pages for training runs, not those for language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
CONNECT_SECONDS = 5
PATIENT = {"mysql", "postgresql"}
"""Databases whose drivers can be told how long to wait."""
NOWHERE = "distillery-is-anybody-there"
"""A folder of artifacts that does not exist; to ask for it costs a store next to nothing."""
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
FOR_TRAINING = "workflowType=machine_learning"
"""Has MLflow's pages show what belongs to training, and no traces or prompts."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSource:
    """A data set that a run used."""

    name: str
    """As MLflow's pages show it."""
    digest: str
    """DVC's hash."""
    context: str
    """training, validation or test."""
    path: str
    """In the workspace."""
    profile: Mapping[str, float] = field(default_factory=dict)
    """How much it holds."""


def set_defaults() -> None:
    """Set what we want of MLflow where the user set nothing: no telemetry, no endless waiting."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def tracking_uri(settings: RegisterParams, root: Path) -> str:
    """Return where runs go: what params.yaml says, else a database in the workspace."""
    return settings.tracking_uri or f"sqlite:///{root.resolve() / DATABASE_FILE}"


@contextlib.contextmanager
def explained(uri: str, again: str = "make register") -> Iterator[None]:
    """Turn whatever MLflow and its stores raise into a TrackingError that says what to do.

    Args:
        uri: where MLflow is.
        again: the command that makes up for what was not logged.
    """
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    known = (MlflowException, requests.RequestException, SQLAlchemyError, OSError)
    try:
        yield
    except DistilleryError:
        raise  # says what to do by itself
    except Exception as error:
        missing = missing_driver(error)
        if missing is None and not isinstance(error, known) and not is_of_a_store(error):
            raise
        advice = "Start the server, or correct register.tracking_uri, and run"
        raise TrackingError(
            f"MLflow at {without_credentials(uri)}: "
            f"{missing or without_credentials(in_a_line(error))}; the results are safe in the "
            f"workspace. {'Then run' if missing else advice} {again}"
        ) from error


def check_database(uri: str) -> None:
    """Make sure that a database answers, before MLflow tries ten times in a hundred seconds.

    Args:
        uri: where MLflow is; nothing is asked of a server or a file.

    Raises:
        ModuleNotFoundError: its driver is not installed.
        SQLAlchemyError: it does not answer, or refuses.
    """
    import sqlalchemy

    if uri.startswith(("http:", "https:", "sqlite:")) or "://" not in uri:
        return
    url = sqlalchemy.make_url(uri)
    patience = {"connect_timeout": CONNECT_SECONDS} if url.get_backend_name() in PATIENT else {}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=patience)
    with engine.connect():
        pass


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Let one process at a time into the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Tracking:
    """An MLflow experiment, and the runs we write into it."""

    def __init__(self, settings: RegisterParams, root: Path, again: str = "make register") -> None:
        """Connect, and create store and experiment if they are not there yet.

        Args:
            settings: where MLflow is, and the experiment.
            root: the workspace.
            again: the command that makes up for what was not logged.

        Raises:
            TrackingError: the store cannot be reached or refuses.
        """
        set_defaults()
        import mlflow

        self.uri = tracking_uri(settings, root)
        self.root = root
        self.again = again
        # Two processes that create one database at a time break it.
        with self.explained(), file_lock(root / CREATION_LOCK):
            check_database(self.uri)
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            self.client: MlflowClient = mlflow.MlflowClient(self.uri, self.uri)
            self.experiment_id = self._experiment(settings)

    def _experiment(self, settings: RegisterParams) -> str:
        found = self.client.get_experiment_by_name(settings.experiment)
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
        if found is not None:
            raise TrackingError(
                f"MLflow experiment {settings.experiment!r}: was deleted; restore it in MLflow, or "
                "choose another name for register.experiment"
            )
        location = None
        if settings.tracking_uri is None:
            location = (self.root.resolve() / ARTIFACTS_FOLDER).as_uri()
        return str(self.client.create_experiment(settings.experiment, location, EXPERIMENT_TAGS))

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which MLflow's errors become a TrackingError."""
        return explained(self.uri, self.again)

    @functools.cached_property
    def person(self) -> str:
        """Who we are: the server's user, or USER@HOST."""
        with self.explained():
            return person(self.uri)

    @property
    def artifacts(self) -> str:
        """Where the experiment's files go."""
        with self.explained():
            return str(self.client.get_experiment(self.experiment_id).artifact_location)

    def check_artifacts(self) -> None:
        """Make sure that the store of artifacts can be asked, as nothing else does before the end.

        Raises:
            TrackingError: its driver is missing, or it does not answer or refuses.
        """
        import mlflow

        where = self.artifacts
        with explained(f"{self.uri}, artifacts at {where}", self.again):
            mlflow.artifacts.list_artifacts(f"{where}/{NOWHERE}", tracking_uri=self.uri)

    def describe_experiment(self, text: str) -> None:
        """Set what the experiment's page says above its runs, unless a person wrote something."""
        tags = self.client.get_experiment(self.experiment_id).tags
        there = tags.get(DESCRIPTION_TAG, "")
        if there and _digest(there) not in tags.get(OWN_DESCRIPTION_TAG, ""):
            return
        own = f"{_digest(there)} {_digest(text)}"  # a kill may come before the next line
        self.client.set_experiment_tag(self.experiment_id, OWN_DESCRIPTION_TAG, own)
        self.client.set_experiment_tag(self.experiment_id, DESCRIPTION_TAG, text)

    def create_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Create a run and return its id."""
        tags = {USER_TAG: self.person, **tags}
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        return str(run.info.run_id)

    def find_run(self, tags: Mapping[str, str]) -> str | None:
        """Return the id of the latest run that bears these tags, None where there is none."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    def child(self, parent: str, model: str, name: str) -> str:
        """Return the id of a parent's run for one model, created on first need.

        Args:
            parent: the parent's run id.
            model: which model, such as `students/conv/seed-0`.
            name: the run's name if it must be created.
        """
        tags = {PARENT_TAG: parent, MODEL_TAG: model}
        return self.find_run(tags) or self.create_run(name, tags)

    def is_open(self, run: str) -> bool:
        """Return whether a run exists here and has not ended."""
        from mlflow.exceptions import MlflowException

        try:
            info = self.client.get_run(run).info
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return info.lifecycle_stage == "active" and info.status == "RUNNING"

    def holds(self, run: str) -> bool:
        """Return whether a run is in this experiment."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run).info.experiment_id == self.experiment_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # somebody deleted it
                return False
            raise

    def end_run(self, run: str, status: str = "FINISHED") -> None:
        """End a run and its children that are still open."""
        children = self.client.search_runs(
            [self.experiment_id], f"tags.`{PARENT_TAG}` = '{run}'", max_results=1000
        )
        for child in children:
            if child.info.status == "RUNNING":
                self.client.set_terminated(child.info.run_id, status)
        self.client.set_terminated(run, status)

    def log_points(self, run: str, points: Sequence[Point]) -> None:
        """Log curve points; the same points again change nothing."""
        from mlflow.entities import Metric

        # MLflow's comparison of runs opens on the metric that came first: not on a loss, please.
        points = sorted(points, key=lambda point: "valid/" not in point.key)
        metrics = [Metric(point.key, point.value, point.timestamp, point.step) for point in points]
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self.client.log_batch(run, metrics=metrics[start : start + METRICS_PER_BATCH])

    def log_values(
        self,
        run: str,
        *,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Log settings, final metrics and tags of a run."""
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        items = [Param(name, value) for name, value in params.items()]
        for start in range(PARAMS_PER_BATCH, len(items), PARAMS_PER_BATCH):
            self.client.log_batch(run, params=items[start : start + PARAMS_PER_BATCH])
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
            params=items[:PARAMS_PER_BATCH],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def log_data(self, run: str, sources: Sequence[DataSource]) -> None:
        """Name the data sets that a run used, with their digests."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self.client.log_inputs(
            run,
            [
                DatasetInput(
                    Dataset(
                        name=source.name,
                        digest=source.digest,
                        source_type="local",
                        source=json.dumps({"uri": source.path}),
                        profile=json.dumps(dict(source.profile)),
                    ),
                    [
                        InputTag("mlflow.data.context", source.context),
                        InputTag("dvc.path", source.path),
                        InputTag("dvc.md5", source.digest),
                    ],
                )
                for source in sources
            ],
        )

    def log_table(self, run: str, table: pd.DataFrame, name: str) -> None:
        """Log a table that MLflow's pages can show and filter; the same name is replaced."""
        self.client.log_text(run, table.to_json(orient="split", index=False), name)
        entry = json.dumps([{"path": name, "type": "table"}])
        self.client.set_tag(run, "mlflow.loggedArtifacts", entry)

    def read_text(self, run: str, name: str) -> str | None:
        """Return the content of a run's text file; None where it has none of that name."""
        import mlflow

        if name not in {item.path for item in self.client.list_artifacts(run)}:
            return None
        path = mlflow.artifacts.download_artifacts(
            run_id=run, artifact_path=name, tracking_uri=self.uri
        )
        return Path(path).read_text("utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
