"""MLflow: the store, its runs, and learning curves that may be sent any number of times.

With `serving_model.py`, which MLflow loads by itself, the only module that imports
mlflow, and it does so late: the import takes seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

from distillery.credentials import without_credentials
from distillery.errors import TrackingError
from distillery.params.whole import FrameLossParams, ObjectiveParams, RegisterParams, Schedule

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

DATABASE_FILE = "mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"
CREATION_LOCK = "scratch/mlflow.lock"
MODEL_TAG = "distillery.model"
OBJECTIVE_TAG = "distillery.objective"
"""Of a student's or control's run: the objective in short, as in its name."""
PARENT_TAG = "mlflow.parentRunId"
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
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
DIGITS_OF_MD5 = 6
PAGES = "#/experiments/{experiment}/runs"
FOR_TRAINING = "workflowType=machine_learning"
"""Has MLflow's pages show what belongs to training, and no traces or prompts."""

logger = logging.getLogger(__name__)


class Point(NamedTuple):
    """One value of a learning curve."""

    key: str
    value: float
    step: int
    timestamp: int  # milliseconds since 1970


@dataclass(frozen=True)
class DataSource:
    """A data set that a run used."""

    name: str
    digest: str
    context: str  # training, validation or test
    path: str
    profile: Mapping[str, Any] = field(default_factory=dict)


def set_defaults() -> None:
    """Set what we want of MLflow where the user set nothing: no telemetry, no endless waiting."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def tracking_uri(settings: RegisterParams, root: Path) -> str:
    """Return where runs go: what params.yaml says, else a database in the workspace."""
    return settings.tracking_uri or f"sqlite:///{root.resolve() / DATABASE_FILE}"


def run_name(student: str, objective: str, data_md5: str = "", seed: int | None = None) -> str:
    """Return the name of a student's run, `conv@1a2b3c-T2-share0.5`.

    MLflow's tables cut names off after some 17 letters, so what tells runs apart comes first.

    Args:
        student: its name in params.yaml.
        objective: of `objective_name`.
        data_md5: of the prepared data; empty where they are not known yet.
        seed: where there are several.
    """
    name = f"{student}{_at_version(data_md5)}-{objective}"
    return name if seed is None else f"{name}-seed{seed}"


def pipeline_name(what: str, corpus: str, data_md5: str) -> str:
    """Return the name of a run that is not of one model alone, `conv-T2-share0.5 on an4@1a2b3c`.

    Args:
        what: the student whose figures a pipeline's run bears, with its objective; when it began,
            before it has them; or what else it is.
        corpus: `PrepareParams.title`.
        data_md5: of the prepared data; empty where they are not known yet.
    """
    return f"{what} on {corpus}{_at_version(data_md5)}"


def _at_version(md5: str) -> str:
    return f"@{short_md5(md5)}" if md5 else ""


def short_md5(md5: str) -> str:
    """Return the first digits of a hash, enough for names."""
    return md5[:DIGITS_OF_MD5]


def objective_name(objective: ObjectiveParams | None) -> str:
    """Return an objective in short, `T2-share0.5`; None stands for a control.

    What is as usual is left out: `T2-trim-4best-hidden-share0to0.5` has blank mode `trim`, four
    hypotheses, a term of hidden states, and a share that rises from 0 to 0.5.
    """
    if objective is None:
        return "control"
    return "-".join([*_terms(objective), f"share{_value(objective.teacher_share)}"])


def run_page(experiment: str, run: str) -> str:
    """Return a run's page, to stand behind the address of the MLflow server."""
    return f"{PAGES.format(experiment=experiment)}/{run}?{FOR_TRAINING}"


def runs_page(experiment: str) -> str:
    """Return the table of an experiment's runs, to stand behind that address.

    MLflow's home, and an experiment's page without this, may open on what language models need.
    """
    return f"{PAGES.format(experiment=experiment)}?{FOR_TRAINING}"


def charts_page(experiment: str) -> str:
    """Return the page of all students as charts, lowest WER first, to stand behind that address.

    What it shows is all in its address, as MLflow writes it when one copies it.
    """
    wanted = urlencode(
        {
            "compareRunsMode": "CHART",
            "searchFilter": "params.role = 'student'",
            "orderByKey": "metrics.`test/wer`",
            "orderByAsc": "true",
        },
        quote_via=quote,
    )
    return f"{PAGES.format(experiment=experiment)}?{wanted}&{FOR_TRAINING}"


def _terms(objective: ObjectiveParams) -> list[str]:
    frame, sequence, hidden = objective.frame, objective.sequence, objective.hidden
    names = []
    if objective.uses_frames:
        name = f"T{frame.temperature:g}" if frame.type == "kl" else frame.type
        names.append(name + _changing(frame.weight))
        names += _frames_that_count(frame)
    if objective.uses_sequence:
        several = f"{sequence.num_hypotheses}best" if sequence.num_hypotheses > 1 else ""
        changing = _changing(sequence.weight)
        names += [f"{several or 'seq'}{changing}"] if several or changing else []
    elif objective.uses_teacher:
        names.append("noseq")
    if objective.uses_hidden:
        name = "hidden" if hidden.type == "l1_cosine" else f"hidden_{hidden.type}"
        names.append(name + _changing(hidden.weight))
    if objective.uses_heads:
        names.append(f"heads{_changing(objective.intermediate.weight)}")
    return names


def _frames_that_count(frame: FrameLossParams) -> list[str]:
    usual = FrameLossParams()
    names = []
    if (frame.blank_mode, frame.dilation) != (usual.blank_mode, usual.dilation):
        setting = {"symmetric": frame.dilation, "threshold": frame.blank_threshold}
        names.append(f"{frame.blank_mode}{setting.get(frame.blank_mode, '')}")
    if frame.weighting != usual.weighting:
        names.append(frame.weighting)
    if frame.delay_frames:
        names.append(f"delay{frame.delay_frames}")
    return names


def _value(setting: float | Schedule) -> str:
    if isinstance(setting, Schedule):
        return f"{setting.start:g}to{setting.end:g}"
    return f"{setting:g}"


def _changing(weight: float | Schedule) -> str:
    return f"w{_value(weight)}" if isinstance(weight, Schedule) else ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings under dotted names, as text; lists are JSON."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            is_list = isinstance(value, list | tuple)
            flat[f"{prefix}{name}"] = json.dumps(value) if is_list else str(value)
    return flat


class CurveFile:
    """A growing JSONL file of curve points, read piece by piece.

    Only whole lines count. A stage that goes on after a kill writes its file anew, so what was read
    before is compared: when it no longer stands at the file's start, all is read again.
    """

    def __init__(self, path: Path, prefix: str = "") -> None:
        self.path = path
        self.prefix = prefix
        self._seen = b""

    def read(self) -> tuple[list[Point], bytes]:
        """Return the points not yet taken, and what to hand to `taken` once they are safe."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        content = content[: content.rfind(b"\n") + 1]
        start = len(self._seen) if content.startswith(self._seen) else 0
        return [self._point(line) for line in content[start:].splitlines()], content

    def taken(self, content: bytes) -> None:
        """Remember that everything up to here has arrived."""
        self._seen = content

    def _point(self, line: bytes) -> Point:
        row = json.loads(line)
        return Point(
            self.prefix + row["key"], float(row["value"]), int(row["step"]), int(row["timestamp"])
        )


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

    try:
        yield
    except (MlflowException, requests.RequestException, SQLAlchemyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise TrackingError(
            f"MLflow at {without_credentials(uri)}: {without_credentials(reason)}; the results are "
            "safe in the workspace. Start the server, or correct register.tracking_uri, and run "
            f"{again}"
        ) from error


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
        run = self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name)
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
