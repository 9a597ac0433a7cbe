"""What the tests of `make curve` and `make teachers` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.pipeline import prefect_api
from tests.pipeline.conftest import make_workspace, run_module
from tests.stores import mlflow_of
from tests.tiny import write_params


def first_run(root: Path, settings: dict[str, Any], option: str, api: str) -> Path:
    """Return a workspace in which a study is the first command that ran; first.log says how."""
    prefect_api.use(make_workspace(root), api)
    write_params(root, settings)
    (root / "first.log").write_text(run_module(root, "flows.run", option).stdout)
    return root


def logged_runs(root: Path, role: str, metric: str) -> list[dict[str, Any]]:
    """Return a study's runs in MLflow, with the steps at which a metric was logged."""
    client = mlflow_of(root)
    return [
        {
            "status": run.info.status,
            "metrics": run.data.metrics,
            "tags": run.data.tags,
            "params": run.data.params,
            "steps": [point.step for point in client.get_metric_history(run.info.run_id, metric)],
            "artifacts": [item.path for item in client.list_artifacts(run.info.run_id)],
        }
        for run in client.search_runs(["1"], f"tags.`distillery.role` = '{role}'")
    ]
