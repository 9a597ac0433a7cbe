"""What nothing needs in a cache: namespaces of other teachers or settings, files that killed runs
left, utterances that are no longer prepared."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

import numpy as np

from distillery.teacher_cache.shards import Index, explained, leftovers, locked
from distillery.teacher_cache.store import SHARD_PATTERN, TeacherCache
from distillery.teacher_cache.upkeep.records import folder_bytes, namespace_folders, record_ends
from distillery.teacher_cache.upkeep.rewriting import Rewrite, plan_rewrites, rewrite


@dataclass(frozen=True)
class Garbage:
    """Something that nothing needs."""

    what: str
    """namespace, leftover or unused utterances."""
    path: str
    """In the cache's folder."""
    num_bytes: int
    num_utterances: int = 0
    """Of unused ones."""


def collect(
    root: Path,
    kept: Collection[str],
    used: Collection[str] | None = None,
    *,
    delete: bool = False,
) -> list[Garbage]:
    """Return what nothing needs, and delete it if asked to.

    Args:
        root: folder of the cache.
        kept: namespaces to keep.
        used: keys to keep in these; None keeps all.
        delete: delete what is returned.

    Raises:
        CacheError: a kept namespace is damaged, or somebody uses one; nothing is deleted then.
    """
    folders = namespace_folders(root)
    with ExitStack() as stack:
        if delete:
            for folder in folders:
                stack.enter_context(locked(folder, alone=True))
        gone = [folder for folder in folders if folder.name not in kept]
        found = [Garbage("namespace", folder.name, folder_bytes(folder)) for folder in gone]
        unused = []
        for folder in folders:
            if folder.name in kept:
                found += [_leftover(path) for path in leftovers(folder)]
                unused.append(_unused(TeacherCache(folder), used))
        found += [item.garbage for item in unused if item.rewrites]
        if delete:
            _delete(gone, unused)
    return found


@dataclass(frozen=True)
class _Unused:
    cache: TeacherCache
    rewrites: list[Rewrite]
    garbage: Garbage


def _leftover(path: Path) -> Garbage:
    return Garbage("leftover", f"{path.parent.name}/{path.name}", path.stat().st_size)


def _unused(cache: TeacherCache, used: Collection[str] | None) -> _Unused:
    rows = cache.all_rows
    if used is None:
        return _Unused(cache, [], Garbage("unused utterances", cache.folder.name, 0))
    missing = set(cache.missing(used))
    is_used = np.isin(rows, cache.rows([key for key in used if key not in missing]))
    rewrites = [] if is_used.all() else plan_rewrites(cache, rows[is_used])
    width = sum(cache.namespace.hidden.values())
    size = sum(_dropped_bytes(*source, width) for item in rewrites for source in item.sources)
    count = int((~is_used).sum())
    return _Unused(cache, rewrites, Garbage("unused utterances", cache.folder.name, size, count))


def _delete(namespaces: Sequence[Path], unused: Sequence[_Unused]) -> None:
    for item in unused:
        with explained(item.cache.folder):
            for path in leftovers(item.cache.folder):
                path.unlink()
        rewrite(item.cache.folder, item.cache.namespace, item.rewrites)
    for folder in namespaces:
        _delete_namespace(folder)


def _dropped_bytes(index: Index, kept: np.ndarray, hidden_width: int) -> int:
    starts, _, ends = record_ends(index, hidden_width)
    return int(np.delete(ends - starts, kept).sum())


def _delete_namespace(folder: Path) -> None:
    with explained(folder):
        for path in folder.glob(SHARD_PATTERN):  # first: what is left holds no shard without data
            path.unlink()
        rmtree(folder)
