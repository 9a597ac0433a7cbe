"""Empty databases of MLflow and Prefect, made by themselves once in a session.

Each builds its own by some hundred migrations, every one synced to the disk: seconds that a test
has no use for. What the product does without them, the fixture `finished` shows.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from distillery.tracking import store as tracking
from distillery.tracking.store import DATABASE_FILE
from flows import environment

PREFECT_FILE = ".prefect/prefect.db"


def put_mlflow(root: Path) -> Path:
    """Give a workspace MLflow's database without experiments, and return the workspace."""
    shutil.copy(_mlflow(), root / DATABASE_FILE)
    return root


def put_prefect(root: Path) -> Path:
    """Give a workspace Prefect's database without runs, and return the workspace."""
    (root / PREFECT_FILE).parent.mkdir()
    shutil.copy(_prefect(), root / PREFECT_FILE)
    return root


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="stores-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


@cache
def _mlflow() -> Path:
    path = _folder() / DATABASE_FILE
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=path.parent,
        env={**os.environ, **tracking.DEFAULTS},
        check=True,
        capture_output=True,
    )
    return path


@cache
def _prefect() -> Path:
    path = _folder() / PREFECT_FILE
    path.parent.mkdir()
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
        env={**os.environ, **environment.DEFAULTS, "PREFECT_HOME": str(path.parent)},
        check=True,
        capture_output=True,
    )
    return path
