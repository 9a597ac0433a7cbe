"""Workspaces in which the first stages have run on the tiny corpus, made once in a run."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.cache import cache
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests import shared
from tests.tiny import copy_code, tiny_params, write_corpus, write_params


def put_tones(root: Path) -> Path:
    """Copy a workspace with few prepared recordings, and return it."""
    return _copy("tones", _make_tones, root)


def put_teacher(root: Path) -> Path:
    """Copy a workspace with a teacher, and the code that trained it, and return it."""
    return _copy("teacher", _make_teacher, root)


def put_cache(root: Path) -> Path:
    """Copy a workspace with teacher and cache, and one of four recordings untranscribed."""
    return _copy("cache", _make_cache, root)


def _copy(name: str, make: shared.Make, root: Path) -> Path:
    made = shared.once(name, make)
    return Path(shutil.copytree(made, root, dirs_exist_ok=True))


def _make_tones(root: Path) -> None:
    write_corpus(root / "corpus", num_speakers=6, per_speaker=2)
    write_params(root, tiny_params())
    prepare(root)


def _make_teacher(root: Path) -> None:
    copy_code(root)
    write_corpus(root / "corpus")
    write_params(root, tiny_params())
    prepare(root)
    teacher(root)


def _make_cache(root: Path) -> None:
    write_corpus(root / "corpus", unlabelled=1)
    write_params(root, tiny_params())
    prepare(root)
    teacher(root)
    cache(root)
