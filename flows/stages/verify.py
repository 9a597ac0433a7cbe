"""Every object of DVC's cache against the MD5 in its name: python -m flows.stages.verify."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from distillery.errors import DistilleryError
from distillery.files import replace_file
from flows.stages.lock import workspace_lock
from flows.stages.objects import (
    FOLDER,
    cache_folder,
    files_of,
    is_whole,
    locked_outs,
    md5_in_name,
    md5_of,
    objects,
)
from flows.stages.storage import fetch_objects

PROTECTED = 0o444
"""Mode of every object: DVC trusts what is write-protected."""


def main(arguments: list[str] | None = None) -> int:
    """Check the cache of the current folder, and return 1 if it holds damage that stays."""
    parser = argparse.ArgumentParser(prog="python -m flows.stages.verify", description=__doc__)
    parser.add_argument("--repair", action="store_true", help="drop what is damaged, get it back")
    options = parser.parse_args(arguments)
    from flows import environment

    root = Path.cwd()
    environment.apply(root)
    try:
        if not options.repair:
            return _verify(root)
        with workspace_lock(root):
            return _repair(root, lambda names: fetch_objects(root, names, _write_line))
    except DistilleryError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


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
        places = _named(root, cache).get(md5_in_name(path), [])
        if not _put_back(root, path, places):
            wanted |= {out for out, _ in places}
    if wanted:
        fetch(sorted(wanted))
    named = _named(root, cache)
    for path in damaged:
        if path.exists():
            became = "whole again" if is_whole(path) else "damaged on the remote, too"
        elif md5_in_name(path) in named:
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
        if md5_of(temporary) == md5_in_name(path).removesuffix(FOLDER):
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
        for name, object_md5 in files_of(cache, out, md5):
            found.setdefault(object_md5, []).append((out, name))
    return found


def _name_of(path: Path, named: dict[str, list[tuple[str, str]]]) -> str:
    """Return which file of the workspace an object stands for."""
    places = named.get(md5_in_name(path), [])
    return places[0][1] if places else "of a former run"


def _write_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
