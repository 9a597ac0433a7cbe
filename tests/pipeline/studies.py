"""What the tests of `make curve` and `make teachers` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.pipeline.conftest import make_workspace, run_module
from tests.pipeline.test_flow import query
from tests.tiny import write_params


def first_run(root: Path, settings: dict[str, Any], option: str) -> Path:
    """Return a workspace in which a study is the first command that ran; first.log says how."""
    make_workspace(root)
    write_params(root, settings)
    (root / "first.log").write_text(run_module(root, "flows.run", option).stdout)
    return root


def logged_runs(root: Path, role: str, metric: str) -> list[dict[str, Any]]:
    """Return a study's runs in MLflow, with the steps at which a metric was logged."""
    return query(
        root,
        f"found = client.search_runs(['1'], \"tags.`distillery.role` = '{role}'\")\n"
        "print(json.dumps([{'status': r.info.status, 'metrics': r.data.metrics,\n"
        "  'tags': r.data.tags, 'params': r.data.params, 'steps': [m.step for m in\n"
        f"  client.get_metric_history(r.info.run_id, '{metric}')],\n"
        "  'artifacts': [a.path for a in client.list_artifacts(r.info.run_id)]} for r in found]))",
    )
