"""New shards for old: without some of their records, or fewer and larger ones.

Shards never change. To leave records out, or to put shards together, new shards are written and the
old ones deleted after that, in an order in which readers find the same content at any moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillery.data.audio import SECONDS_PER_HOUR
from distillery.files import map_file
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.payload import payload_of
from distillery.teacher_cache.shards import (
    DATA_SUFFIX,
    INDEX_SUFFIX,
    Index,
    ShardWriter,
    explained,
    locked,
)
from distillery.teacher_cache.store import TeacherCache
from distillery.teacher_cache.upkeep.records import Progress, record_ends


@dataclass(frozen=True)
class Rewrite:
    """Shards that one new shard replaces."""

    sources: Sequence[tuple[Index, np.ndarray]]
    """Each with the rows that the new one takes over."""

    @property
    def num_kept(self) -> int:
        """Records of the new shard."""
        return sum(len(rows) for _, rows in self.sources)

    @property
    def num_dropped(self) -> int:
        """Records that are left out."""
        return sum(len(index.table) for index, _ in self.sources) - self.num_kept


def plan_rewrites(
    cache: TeacherCache, rows: np.ndarray, merge_seconds: float = 0.0
) -> list[Rewrite]:
    """Return how to keep these rows alone, small shards put together.

    A second plan after the first was carried out finds nothing to do: what was put together is no
    longer small.

    Args:
        cache: the namespace.
        rows: to keep, none of them a repeated key.
        merge_seconds: shards of less than half of this are put together, up to this.
    """
    num_rows = sum(len(index.table) for index in cache.shards)
    wanted = np.zeros(num_rows, bool)
    wanted[rows] = True
    most = merge_seconds / cache.namespace.frame_shift_seconds  # frames
    large, groups, total, first = [], [], 0.0, 0
    small: list[tuple[Index, np.ndarray]] = []
    for index in cache.shards:
        kept = np.flatnonzero(wanted[first : first + len(index.table)])
        first += len(index.table)
        frames = int(index.column("num_frames")[kept].sum())
        if 2 * frames >= most:
            large.append(Rewrite([(index, kept)]))
            continue
        if total + frames > most:
            groups.append(Rewrite(small))
            small, total = [], 0.0
        small.append((index, kept))
        total += frames
    groups += [Rewrite(small), *large]
    return [group for group in groups if len(group.sources) > 1 or group.num_dropped]


def rewrite(
    folder: Path,
    namespace: Namespace,
    rewrites: Sequence[Rewrite],
    progress: Progress = lambda _: None,
) -> None:
    """Write new shards, then delete those that they replace; the caller holds the lock alone.

    Of a repeated key readers take the record in the first shard by name. Hence the last go first:
    while a record is there that was not copied, so is the one before it that was.

    Args:
        folder: of the namespace.
        namespace: its description.
        rewrites: what to do.
        progress: called with the number of records of each finished shard.

    Raises:
        CacheError: the folder cannot be written; what readers find is the same as before.
    """
    new = set()
    for item in rewrites:
        new.add(_write(folder, namespace, item))
        progress(item.num_kept)
    old = {index.name for item in rewrites for index, _ in item.sources}
    with explained(folder):
        for name in sorted(old - new, reverse=True):
            delete_shard(folder, name)


def _write(folder: Path, namespace: Namespace, item: Rewrite) -> str:
    payload = payload_of(namespace.payload, len(namespace.tokens), namespace.blank)
    writer = ShardWriter(folder, payload, namespace.hidden, namespace.blank)
    try:
        for index, rows in item.sources:
            if len(rows):
                _copy(folder, index, rows, sum(namespace.hidden.values()), writer)
        return writer.finish() or ""
    except BaseException:
        writer.abandon()
        raise


def _copy(
    folder: Path, index: Index, rows: np.ndarray, hidden_width: int, writer: ShardWriter
) -> None:
    path = folder / f"{index.name}{DATA_SUFFIX}"
    data = np.frombuffer(map_file(path) if path.stat().st_size else b"", np.uint8)
    starts, _, ends = record_ends(index, hidden_width)
    taken = index.table.take(rows).to_pylist()
    for values, start, end in zip(taken, starts[rows].tolist(), ends[rows].tolist(), strict=True):
        writer.copy(tuple(values.values()), data[start:end])


def delete_shard(folder: Path, name: str) -> None:
    """Delete a shard: its index first, so that at no moment a part of it is there."""
    for suffix in (INDEX_SUFFIX, DATA_SUFFIX):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)


@dataclass(frozen=True)
class Compacted:
    """What putting small shards together does."""

    namespace: str
    shards_before: int
    shards_after: int
    num_repeats: int
    """Records of keys that stand in another shard too, left out."""

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.shards_after != self.shards_before or self.num_repeats > 0


def compact(
    folder: Path, hours: float, *, dry_run: bool = False, progress: Progress = lambda _: None
) -> Compacted:
    """Put small shards together into ones of at most so many hours, each key once.

    Needs room for a second copy of what is put together. Whenever it is killed, the cache holds
    what it held before.

    Args:
        folder: of the namespace.
        hours: audio in one shard.
        dry_run: only say what would be done.
        progress: called with the number of records of each finished shard.

    Raises:
        CacheError: the namespace is damaged or cannot be written, or somebody uses it.
    """
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(locked(folder, alone=True))
        cache = TeacherCache(folder)
        rewrites = plan_rewrites(cache, cache.all_rows, hours * SECONDS_PER_HOUR)
        if not dry_run:
            rewrite(folder, cache.namespace, rewrites, progress)
    before = len(cache.shards)
    gone = sum(len(item.sources) - bool(item.num_kept) for item in rewrites)
    return Compacted(folder.name, before, before - gone, sum(item.num_dropped for item in rewrites))
