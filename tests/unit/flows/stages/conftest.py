"""A project of two stages that copy files, in Git, with a remote that clones share."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.stages.process import quiet_dvc
from tests import shared

NAMES = ("copy", "pack")
STAGES = """
stages:
  copy: {cmd: cp a b, deps: [a], outs: [b]}
  pack: {cmd: mkdir folder && cp b folder/c, deps: [b], outs: [folder]}
"""
CONFIG = """
[core]
    analytics = false
    remote = shared
['remote "shared"']
    url = ../../store
    verify = true
"""
URL = "url = ../../store"
"""Of the remote: a folder beside the clones."""


def git(root: Path, *arguments: str) -> str:
    """Run Git and return what it wrote."""
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)


def run(root: Path, text: str) -> None:
    """Run the stages on another text, send what came of them and commit."""
    from dvc.repo import Repo

    (root / "a").write_text(text)
    with quiet_dvc(), contextlib.chdir(root), Repo(".") as repo:
        repo.reproduce()
        repo.push()
    commit(root, text)


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which the stages have run, and whose results are at the remote."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    shutil.copytree(shared.once("team", _make_team), tmp_path, dirs_exist_ok=True)
    return tmp_path / "team"


@pytest.fixture
def mate(team: Path) -> Path:
    """A fresh clone of it."""
    root = team.parent / "mate"
    git(team.parent, "clone", "-q", str(team), str(root))
    return root


def _make_team(folder: Path) -> None:
    root = folder / "team"
    (root / ".dvc").mkdir(parents=True)
    (folder / "store").mkdir()
    (root / ".dvc/config").write_text(CONFIG)
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (root / ".gitignore").write_text("/b\n/folder\n")
    (root / "dvc.yaml").write_text(STAGES)
    git(root, "init", "-q")
    run(root, "one")
