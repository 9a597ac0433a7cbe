"""Empty databases of MLflow and Prefect, made by themselves once in a run of pytest.

Each builds its own by some hundred migrations, every one synced to the disk: seconds that a test
has no use for. What the product does without them, the fixture `finished` shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.tracking import store as tracking
from distillery.tracking.store import DATABASE_FILE
from flows import environment
from tests import shared

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFECT_FILE = ".prefect/prefect.db"


def put_mlflow(root: Path) -> Path:
    """Give a workspace MLflow's database without experiments, and return the workspace."""
    shutil.copy(shared.once("mlflow", _make_mlflow) / DATABASE_FILE, root)
    return root


def mlflow_of(root: Path) -> MlflowClient:
    """Return a client of the MLflow in a workspace's own database."""
    tracking.set_defaults()
    from mlflow import MlflowClient

    uri = f"sqlite:///{root / DATABASE_FILE}"
    return MlflowClient(uri, uri)  # alone, the first says nothing of the registry


def put_prefect(root: Path) -> Path:
    """Give a workspace Prefect's database without runs, and return the workspace."""
    (root / PREFECT_FILE).parent.mkdir()
    shutil.copy(shared.once("prefect", _make_prefect) / PREFECT_FILE, root / PREFECT_FILE)
    return root


def _make_mlflow(folder: Path) -> None:
    uri = f"sqlite:///{folder / DATABASE_FILE}"
    code = f"import mlflow; mlflow.MlflowClient({uri!r}).search_experiments()"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **tracking.DEFAULTS},
        check=True,
        capture_output=True,
    )


def _make_prefect(folder: Path) -> None:
    home = (folder / PREFECT_FILE).parent
    home.mkdir()
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
        env={**os.environ, **environment.DEFAULTS, "PREFECT_HOME": str(home)},
        check=True,
        capture_output=True,
    )
