"""Objects of DVC's local cache against the MD5 in their names: python -m flows.stages.objects.

DVC trusts every object that is write-protected, and all of them are: one with a flipped bit would
be checked out, used and pushed. So what a run gets back from the cache is checked before it is
used, and `make dvc-verify` checks all of it. What is damaged is dropped; it comes back from the
workspace, from the remote, or by running its stage again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from distillery.errors import DistilleryError
from distillery.files import replace_file

LOCK_FILE = "dvc.lock"
PROTECTED = 0o444
FOLDER = ".dir"


def main(arguments: list[str] | None = None) -> int:
    """Check the cache of the current folder, and return 1 if it holds damage that stays."""
    parser = argparse.ArgumentParser(prog="python -m flows.stages.objects", description=__doc__)
    parser.add_argument("--repair", action="store_true", help="drop what is damaged, get it back")
    options = parser.parse_args(arguments)
    from flows import environment
    from flows.stages import pipeline as stages

    root = Path.cwd()
    environment.apply(root)
    try:
        if not options.repair:
            return _verify(root)
        with stages.workspace_lock(root):
            return _repair(root, lambda names: stages.fetch_objects(root, names, _write_line))
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


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
        for name, md5 in _files(cache, out, locked[out]):
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
    return _md5(path).removesuffix(FOLDER) == md5_of(path)


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _verify(root: Path) -> int:
    cache = cache_folder(root)
    checked, damaged = _check(cache)
    named = _named(root, cache)
    for path in damaged:
        _write_line(f"damaged: {path} ({_name_of(path, named)})")
    _write_line(f"{checked} objects, {len(damaged)} damaged")
    if damaged:
        _write_line("make dvc-verify ARGS=--repair drops them and gets back what it can")
    return 1 if damaged else 0


def _repair(root: Path, fetch: Callable[[list[str]], None]) -> int:
    cache = cache_folder(root)
    checked, damaged = _check(cache)
    for path in damaged:
        path.unlink()
    wanted = set()
    for path in sorted(damaged, key=lambda path: path.suffix != FOLDER):  # lists first: they name
        places = _named(root, cache).get(_md5(path), [])
        if not _put_back(root, path, places):
            wanted |= {out for out, _ in places}
    if wanted:
        fetch(sorted(wanted))
    named = _named(root, cache)
    for path in damaged:
        if path.exists():
            became = "whole again" if is_whole(path) else "damaged on the remote, too"
        elif _md5(path) in named:
            became = "dropped; the next run makes it again"
        else:
            became = "dropped; no output of today needs it"
        _write_line(f"{path} ({_name_of(path, named)}): {became}")
    _write_line(f"{checked} objects, {len(damaged)} damaged")
    return 1 if any(path.exists() and not is_whole(path) for path in damaged) else 0


def _check(cache: Path) -> tuple[int, list[Path]]:
    checked, damaged = 0, []
    for path in objects(cache):
        checked += 1
        if not is_whole(path):
            damaged.append(path)
    return checked, damaged


def _put_back(root: Path, path: Path, places: list[tuple[str, str]]) -> bool:
    """Make an object again from what lies in the workspace, if that is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for _, name in places:
        source = root / name
        if path.suffix == FOLDER and source.is_dir():
            temporary.write_bytes(_list_of(source))
        elif path.suffix != FOLDER and source.is_file():
            shutil.copyfile(source, temporary)
        else:
            continue
        if md5_of(temporary) == _md5(path).removesuffix(FOLDER):
            temporary.chmod(PROTECTED)
            replace_file(temporary, path)
            return True
        temporary.unlink()
    return False


def _list_of(folder: Path) -> bytes:
    """Return what DVC's object of a folder holds."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    listed = [
        {"md5": md5_of(path), "relpath": name}
        for name, path in sorted(files.items())
        if path.is_file()
    ]
    return json.dumps(listed, sort_keys=True).encode()


def _named(root: Path, cache: Path) -> dict[str, list[tuple[str, str]]]:
    """Return outputs and paths of files in the workspace by the objects that dvc.lock needs."""
    found: dict[str, list[tuple[str, str]]] = {}
    for out, md5 in locked_outs(root).items():
        for name, object_md5 in _files(cache, out, md5):
            found.setdefault(object_md5, []).append((out, name))
    return found


def _files(cache: Path, out: str, md5: str) -> Iterator[tuple[str, str]]:
    """Yield the path and object of an output, and of each file in it."""
    yield out, md5
    if not md5.endswith(FOLDER):
        return
    try:
        listed: Any = json.loads(_object(cache, md5).read_bytes())
        pairs = [(f"{out}/{item['relpath']}", item["md5"]) for item in listed]
    except (OSError, ValueError, TypeError, KeyError):
        return  # it is gone, or damaged beyond reading
    yield from pairs


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _md5(path: Path) -> str:
    return f"{path.parent.name}{path.name}"


def _name_of(path: Path, named: dict[str, list[tuple[str, str]]]) -> str:
    places = named.get(_md5(path), [])
    return places[0][1] if places else "of a former run"


def _write_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
