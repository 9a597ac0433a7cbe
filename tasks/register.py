"""Stage `register`: results and students into MLflow and its model registry.

The one stage that DVC does not know: it talks to a server, and must run although nothing changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.credentials import without_credentials
from distillery.errors import StageError
from distillery.files import write_json
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.register.register import OPEN_RUN_FILE, register_results
from distillery.register.runs import parent_name
from distillery.register.sources import Sources
from distillery.teacher_cache.filling.report import CACHE_REPORT_FILE
from distillery.tracking.store import Tracking
from tasks.lineage import LOCK_FILE, PATCH_FILE, data_version, read_lineage, uncommitted_patch
from tasks.stage import run_stage

SUMMARY_FILE = "reports/evaluation/summary.json"

logger = logging.getLogger(__name__)


def register(
    root: Path,
    run: str | None = None,
    *,
    tracking: Tracking | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Log the workspace's results, register its students, and write reports/registered.json.

    Args:
        root: the workspace.
        run: id of the parent run; None goes on with the one that was left open, or opens one.
        tracking: a connection to MLflow, if there is one already.
        tags: more tags for all runs, such as the flow run's id.

    Returns:
        What reports/registered.json holds.

    Raises:
        StageError: a result to register is missing.
        TrackingError: MLflow cannot be reached or refuses; the results stay where they are.
    """
    settings = Params.load(root / PARAMS_FILE)
    sources = _sources(root, settings, tags or {})
    tracking = tracking or Tracking(settings.register, root)
    run = run or open_run(tracking, root, settings)
    registered = register_results(tracking, run, sources)
    (root / OPEN_RUN_FILE).unlink(missing_ok=True)
    logger.info(
        "registered: %s version %s is %s (%s)",
        registered["name"],
        registered["version"],
        registered["alias"],
        registered["reason"],
    )
    return registered


def open_run(tracking: Tracking, root: Path, settings: Params) -> str:
    """Return the parent run to log into: one left open by a killed run, or a new one.

    A run that was left open under other settings is ended as KILLED: its curves would mix.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    path = root / OPEN_RUN_FILE
    digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()
    here = {
        "uri": without_credentials(tracking.uri),
        "experiment": tracking.experiment_id,
        "params": digest,
    }
    with tracking.explained():
        left = _read_open_run(path)
        same_place = all(left.get(name) == here[name] for name in ("uri", "experiment"))
        if same_place and tracking.is_open(left["run"]):
            if left["params"] == digest:
                return str(left["run"])
            tracking.end_run(left["run"], "KILLED")
        name = parent_name(settings, data_version(root))
        run = tracking.create_run(name, {"distillery.role": "pipeline"})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**here, "run": run})
    return run


def _read_open_run(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) and {"run", "params"} <= set(content) else {}


def _sources(root: Path, settings: Params, tags: Mapping[str, str]) -> Sources:
    path = root / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise StageError(f"{path}: no such file; run make run first") from None
    lineage = read_lineage(root)
    patch = root / "scratch" / PATCH_FILE
    patch.parent.mkdir(parents=True, exist_ok=True)
    patch.unlink(missing_ok=True)
    if changes := uncommitted_patch(root):
        patch.write_text(changes, encoding="utf-8")
    return Sources(
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
