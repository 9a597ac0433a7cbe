"""What a result was made from: Git revision, DVC hashes, teacher and cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import yaml

from distillery.credentials import without_credentials
from distillery.data.workspace import EVALUATION, PREPARED, TEACHER, TEACHER_CACHE
from distillery.errors import StageError
from distillery.models.fingerprint import read_fingerprint
from distillery.params.file import PARAMS_FILE
from distillery.teacher_cache.store import TeacherCache
from distillery.tracking.fetched import read_source

LOCK_FILE = "dvc.lock"
RESULTS = (PREPARED, TEACHER, EVALUATION)
PATCH_FILE = "uncommitted.patch"
CODE = ("distillery", "tasks", "flows", "dvc.yaml", "params.yaml", "requirements.txt")


class LockedOutput(TypedDict):
    """An output in dvc.lock, as DVC writes it."""

    path: str
    md5: str
    """Of a folder: with `.dir` behind."""


class LockedStage(TypedDict, total=False):
    """A stage in dvc.lock, as DVC writes it."""

    outs: list[LockedOutput]


@dataclass(frozen=True)
class Lineage:
    """Hashes by what they stand for."""

    outputs: Mapping[str, str]
    """MD5 of every DVC output by its path, as dvc.lock has them, without `.dir`."""
    tags: Mapping[str, str]
    """The ones that every run bears."""


def read_lineage(root: Path, needed: Sequence[str] = RESULTS) -> Lineage:
    """Read where the workspace's results come from.

    Args:
        root: the workspace.
        needed: outputs without which there is nothing to tell.

    Raises:
        StageError: dvc.lock is missing or damaged, or lacks a stage.
    """
    path = root / LOCK_FILE
    outputs = locked_outputs(path)
    if missing := [name for name in needed if name not in outputs]:
        raise StageError(f"{path}: names no {', '.join(missing)}; run make run first")
    tags = {
        "dvc.lock.md5": hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(),
        "dvc.data.md5": outputs[PREPARED],
        **(_teacher_tags(root, outputs) if TEACHER in needed else {}),
        **_git_tags(root),
    }
    return Lineage(outputs, tags)


def _teacher_tags(root: Path, outputs: Mapping[str, str]) -> dict[str, str]:
    return {
        "dvc.teacher.md5": outputs[TEACHER],
        "teacher.fingerprint": read_fingerprint(root / TEACHER).fingerprint,
        **_teacher_version(root / TEACHER),
        "cache.manifest_sha256": TeacherCache.open_current(root / TEACHER_CACHE).manifest_digest,
    }


def _teacher_version(folder: Path) -> dict[str, str]:
    """Return which registered version the teacher is, if it is one."""
    source = read_source(folder)
    return {} if source is None else {"teacher.version": f"models:/{source.name}/{source.version}"}


def locked_outputs(path: Path) -> dict[str, str]:
    """Return the MD5 of every output in dvc.lock by its path.

    Raises:
        StageError: the file is missing or damaged.
    """
    try:
        stages: dict[str, LockedStage] = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        return {
            out["path"]: out["md5"].removesuffix(".dir")
            for stage in stages.values()
            for out in stage.get("outs", [])
        }
    except FileNotFoundError:
        raise StageError(f"{path}: no such file; run make run first") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"{path}: damaged ({error!r}); run make run to write it again") from error


def data_version(root: Path) -> str:
    """Return the MD5 of the prepared data; empty where dvc.lock does not say it."""
    try:
        return locked_outputs(root / LOCK_FILE).get(PREPARED, "")
    except StageError:
        return ""


def _git_tags(root: Path) -> dict[str, str]:
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"git.commit": "none", "git.dirty": "unknown"}
    changes = _git(root, "status", "--porcelain", "--", *CODE)
    return {"git.commit": commit.strip(), "git.dirty": str(bool(changes)).lower()}


def uncommitted_patch(root: Path) -> str:
    """Return what differs from the last commit in the code, as Git patches say it.

    Of new files only Python's count, not keys or notes that lie beside them, and no added line
    holds a password in a URL. The settings are left out: a run logs them whole.
    """
    code = [
        f":(glob){name}/**/*.py" if (root / name).is_dir() else name
        for name in CODE
        if name != PARAMS_FILE and (root / name).exists()
    ]
    with tempfile.TemporaryDirectory() as folder:
        # An index of its own, so that the user's stays as it is.
        own = {**os.environ, "GIT_INDEX_FILE": str(Path(folder) / "index")}
        if _git(root, "read-tree", "HEAD", env=own) is None:
            return ""  # no repository, or no commit yet
        _git(root, "add", "--all", "--", *code, env=own)
        patch = _git(root, "diff", "--cached", "--binary", "HEAD", env=own)
    lines = (patch or "").splitlines(keepends=True)
    return "".join(without_credentials(x) if x.startswith("+") else x for x in lines)


def _git(root: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=env,
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
