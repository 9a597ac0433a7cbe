"""A clone of the repository, its settings, and commands in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from distillery.errors import StageError
from distillery.files import write_bytes
from distillery.params.file import PARAMS_FILE

ARCHIVE = "archive"
"""What the teacher learns from; no night reads it."""


def lay_out(root: Path, place: Path) -> Path:
    """Clone the repository, as committed, and return the clone."""
    workspace = place / "workspace"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    git(root, "clone", "--quiet", str(root), str(workspace))
    git(workspace, "config", "user.name", "week")
    git(workspace, "config", "user.email", "week@localhost")
    return workspace


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints.

    Raises:
        StageError: it fails.
    """
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"git {arguments[0]}: {done.stderr.strip()}; make week needs a Git clone")
    return done.stdout.strip()


def teacher_settings(nights: Mapping[str, Any], num_epochs: int) -> dict[str, Any]:
    """Return settings that train and register the teacher of the nights."""
    network = {"type": "conv_bilstm", "conv_channels": 16, "hidden_size": 128, "num_layers": 2}
    training = {**nights["distill"]["training"], "batch_seconds": 10.0, "learning_rate": 3.0e-3}
    distill = {
        **nights["distill"],
        "objective": {"teacher_share": 0.0},
        "training": training | {"num_epochs": 2, "learning_rate": 1.0e-4},
        "students": {"teacher": {"architecture": {**network}, "init": "teacher"}},
    }
    return {
        **nights,
        "prepare": {**nights["prepare"], "source": ARCHIVE},
        "teacher": {
            "kind": "trained",
            "architecture": {**network, "dropout": 0.2},
            "features": dict(nights["distill"]["features"]),
            "training": training | {"num_epochs": num_epochs},
            "allow_poor": True,
        },
        "distill": distill,
        "register": {
            **nights["register"],
            "experiment": "week-teacher",
            "model_name": nights["teacher"]["model"].split("/")[1],
        },
    }


def use_settings(workspace: Path, settings: Mapping[str, Any]) -> None:
    """Write params.yaml."""
    text = yaml.safe_dump(dict(settings), sort_keys=False)
    write_bytes(workspace / PARAMS_FILE, text.encode())


def python(workspace: Path, log: Path, *arguments: str) -> None:
    """Run a module of the workspace, as its make target does.

    Args:
        workspace: the clone.
        log: receives what it prints.
        arguments: the module and its arguments.

    Raises:
        StageError: it fails.
    """
    with open(log, "ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=workspace,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise StageError(f"python -m {' '.join(arguments)}: failed; see {log}")
