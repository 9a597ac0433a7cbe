"""Stage `register`: results and students into MLflow and its model registry.

The one stage that DVC does not know: it talks to a server, and must run although nothing changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from distillery.credentials import without_credentials
from distillery.data.workspace import EVALUATION
from distillery.evaluate.summary import Summary
from distillery.files import write_json
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.register.known import find_registered, results_digest
from distillery.register.pipeline_results import PipelineResults
from distillery.register.register import OPEN_RUN_FILE, register_results
from distillery.register.registered import Registered
from distillery.register.runs import parent_name
from distillery.teacher_cache.filling.report import CACHE_REPORT_FILE
from distillery.tracking.store import Tracking
from tasks.lineage import LOCK_FILE, PATCH_FILE, data_version, read_lineage, uncommitted_patch
from tasks.stage import run_stage

logger = logging.getLogger(__name__)


def register(
    root: Path,
    run: str | None = None,
    *,
    tracking: Tracking | None = None,
    tags: Mapping[str, str] | None = None,
) -> Registered:
    """Log the workspace's results, register its students, and write reports/registered.json.

    Args:
        root: the workspace.
        run: id of the parent run; None goes on with the one that was left open, or opens one.
        tracking: a connection to MLflow, if there is one already.
        tags: more tags for all runs, such as the flow run's id.

    Raises:
        StageError: a result to register is missing or damaged.
        TrackingError: MLflow cannot be reached or refuses; the results stay where they are.
    """
    settings = Params.load(root / PARAMS_FILE)
    results = _results(root, settings, tags or {})
    tracking = tracking or Tracking(settings.register, root)
    run = run or open_run(tracking, root, settings)
    registered = register_results(tracking, run, results)
    (root / OPEN_RUN_FILE).unlink(missing_ok=True)
    logger.info(
        "registered: %s version %s is %s (%s)",
        registered.name,
        registered.version,
        registered.alias,
        registered.reason,
    )
    return registered


def registered_before(root: Path) -> Registered | None:
    """Return what any clone has registered of the workspace's results; None: it is to be done.

    It is also where a run was left open, which `register` ends.

    Raises:
        StageError: a result is missing or damaged.
        TrackingError: MLflow cannot be reached or refuses.
    """
    if (root / OPEN_RUN_FILE).exists():
        return None
    settings = Params.load(root / PARAMS_FILE)
    digest = results_digest(read_lineage(root).outputs, settings)
    tracking = Tracking(settings.register, root)
    return find_registered(tracking, settings.register.model_name, digest)


def open_run(tracking: Tracking, root: Path, settings: Params) -> str:
    """Return the parent run to log into: one left open by a killed run, or a new one.

    A run that was left open under other settings is ended as KILLED: its curves would mix.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    path = root / OPEN_RUN_FILE
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
    uri, experiment = without_credentials(tracking.uri), tracking.experiment_id
    with tracking.explained():
        left = _read_open_run(path)
        same_place = left is not None and (left.uri, left.experiment) == (uri, experiment)
        if left is not None and same_place and tracking.is_open(left.run):
            if left.params == digest:
                return left.run
            tracking.end_run(left.run, "KILLED")
        name = parent_name(settings, data_version(root))
        run = tracking.create_run(name, {"distillery.role": "pipeline"})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(OpenRun(run, digest, uri, experiment)))
    return run


@dataclass(frozen=True)
class OpenRun:
    """What scratch/open_run.json holds: a pipeline's run in MLflow that has not ended."""

    run: str
    """Its id."""
    params: str
    """SHA-256 of the settings."""
    uri: str
    """Where MLflow is, without credentials."""
    experiment: str
    """Id of the experiment there."""


def _read_open_run(path: Path) -> OpenRun | None:
    try:
        return TypeAdapter(OpenRun).validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _results(root: Path, settings: Params, tags: Mapping[str, str]) -> PipelineResults:
    summary = Summary.read(root / EVALUATION)
    lineage = read_lineage(root)
    patch = root / "scratch" / PATCH_FILE
    patch.parent.mkdir(parents=True, exist_ok=True)
    patch.unlink(missing_ok=True)
    if changes := uncommitted_patch(root):
        patch.write_text(changes, encoding="utf-8")
    return PipelineResults(
        root=root,
        params=settings,
        summary=summary,
        outputs=lineage.outputs,
        tags={"trigger": "manual", **lineage.tags, **tags},
        artifacts=[
            path
            for path in (
                root / PARAMS_FILE,
                root / LOCK_FILE,
                root / CACHE_REPORT_FILE,
                patch,
            )
            if path.exists()
        ],
    )


def main() -> None:
    """Register the results of the current folder."""
    run_stage(register, Path.cwd(), guard=False)


if __name__ == "__main__":
    main()
