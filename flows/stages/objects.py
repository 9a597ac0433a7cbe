"""Objects of DVC's local cache against the MD5 in their names.

DVC trusts every object that is write-protected, and all of them are: one with a flipped bit would
be checked out, used and pushed. So what a run gets back from the cache is checked before it is
used, and `make dvc-verify` checks all of it. What is damaged is dropped; it comes back from the
workspace, from the remote, or by running its stage again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import yaml

LOCK_FILE = "dvc.lock"
FOLDER = ".dir"


def locked_outs(root: Path, target: str | None = None) -> dict[str, str]:
    """Return the MD5 of outputs by their paths, `.dir` kept, as dvc.lock has them.

    Args:
        root: the workspace.
        target: DVC's name of a stage; None: all.
    """
    path = root / LOCK_FILE
    if not path.exists():
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = yaml.load(path.read_text("utf-8"), loader)["stages"]
    wanted = [found.get(target, {})] if target is not None else found.values()
    return {out["path"]: out["md5"] for spec in wanted for out in spec.get("outs", [])}


def drop_damaged(root: Path, outs: Collection[str]) -> list[str]:
    """Remove objects that are not what their names say, and the files that were made of them.

    Args:
        root: the workspace.
        outs: paths of outputs that DVC has just taken from its cache.

    Returns:
        The files' paths, sorted; empty where all is well.
    """
    cache = cache_folder(root)
    locked = locked_outs(root)
    dropped = []
    for out in outs:
        for name, md5 in files_of(cache, out, locked[out]):
            path = _object(cache, md5)
            if path.exists() and not is_whole(path):
                path.unlink()
                if (root / name).is_file():
                    (root / name).unlink()
                dropped.append(name)
    return sorted(dropped)


def drop_damaged_folders(root: Path) -> list[Path]:
    """Remove damaged lists of a folder's files, on which DVC itself would fail; return them."""
    lists = cache_folder(root).glob(f"[0-9a-f][0-9a-f]/*{FOLDER}")
    damaged = [path for path in lists if not is_whole(path)]
    for path in damaged:
        path.unlink()
    return damaged


def cache_folder(root: Path) -> Path:
    """Return where DVC keeps its objects, `ab/cdef…` for the one of MD5 abcdef…"""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)


def objects(cache: Path) -> Iterator[Path]:
    """Yield all objects; what DVC has left half-written is none."""
    for path in sorted(cache.glob("[0-9a-f][0-9a-f]/*")):
        if re.fullmatch(rf"[0-9a-f]{{30}}(\{FOLDER})?", path.name):
            yield path


def is_whole(path: Path) -> bool:
    """Return whether an object is what its name says."""
    return md5_in_name(path).removesuffix(FOLDER) == md5_of(path)


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def files_of(cache: Path, out: str, md5: str) -> Iterator[tuple[str, str]]:
    """Yield the path and object of an output, and of each file in it."""
    yield out, md5
    if not md5.endswith(FOLDER):
        return
    try:
        listed = json.loads(_object(cache, md5).read_bytes())
        pairs = [(f"{out}/{item['relpath']}", item["md5"]) for item in listed]
    except (OSError, ValueError, TypeError, KeyError):
        return  # it is gone, or damaged beyond reading
    yield from pairs


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def md5_in_name(path: Path) -> str:
    """Return the MD5 that an object is called by, `.dir` kept."""
    return f"{path.parent.name}{path.name}"
