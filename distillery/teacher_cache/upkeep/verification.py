"""Every record against the checksum in its shard's index; the sound ones survive a repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from isal.isal_zlib import crc32

from distillery.errors import CacheError
from distillery.teacher_cache.namespace import NAMESPACE_FILE, Namespace
from distillery.teacher_cache.shards import DATA_SUFFIX, Index, explained, locked, read_index
from distillery.teacher_cache.store import SHARD_PATTERN
from distillery.teacher_cache.upkeep.records import READ_BYTES, Progress, record_ends
from distillery.teacher_cache.upkeep.rewriting import Rewrite, delete_shard, rewrite


@dataclass(frozen=True)
class Damage:
    """One thing that is not what it was when it was written."""

    file: str
    """Its name in the namespace's folder."""
    key: str | None
    """The utterance; None where the file as a whole is damaged."""
    found: str


@dataclass(frozen=True)
class Verified:
    """What reading everything showed."""

    namespace: str
    num_shards: int = 0
    num_utterances: int = 0
    """Records whose index could be read."""
    num_bytes: int = 0
    damages: Sequence[Damage] = ()
    repaired: bool = False
    """The damaged shards are gone; their sound records stand in new ones."""


@dataclass(frozen=True)
class _Shard:
    name: str
    index: Index | None
    """None where it is damaged: nothing says what the shard holds."""
    damages: list[Damage] = field(default_factory=list)
    sound: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    num_bytes: int = 0


def verify(folder: Path, *, repair: bool = False, progress: Progress = lambda _: None) -> Verified:
    """Read every record and compare it with its checksum.

    Args:
        folder: of the namespace.
        repair: rewrite the sound records of damaged shards, then delete these.
        progress: called with the bytes of each shard.

    Raises:
        CacheError: somebody deletes shards just now, or, with `repair`, uses the namespace.
    """
    try:
        namespace = Namespace.read(folder)
    except CacheError as error:
        return Verified(folder.name, damages=[_damage(folder / NAMESPACE_FILE, error)])
    width = sum(namespace.hidden.values())
    with locked(folder, alone=repair):
        shards = []
        for path in sorted(folder.glob(SHARD_PATTERN)):
            shards.append(_check_shard(path, width))
            progress(shards[-1].num_bytes)
        damaged = [shard for shard in shards if shard.damages]
        if repair:
            _repair(folder, namespace, damaged)
    return Verified(
        folder.name,
        len(shards),
        sum(len(shard.index.table) for shard in shards if shard.index),
        sum(shard.num_bytes for shard in shards),
        [damage for shard in damaged for damage in shard.damages],
        repaired=repair and bool(damaged),
    )


def _damage(path: Path, error: CacheError) -> Damage:
    """Return what an error says about a file, without the path and the advice."""
    return Damage(path.name, None, str(error).removeprefix(f"{path}: ").partition("; run")[0])


def _check_shard(path: Path, hidden_width: int) -> _Shard:
    try:
        index = read_index(path)
    except CacheError as error:
        return _Shard(path.stem, None, [_damage(path, error)])
    data = path.with_suffix(DATA_SUFFIX)
    starts, _, ends = record_ends(index, hidden_width)
    held = data.stat().st_size if data.exists() else 0
    broken = damaged_rows(index, data, hidden_width)
    damages = [
        Damage(data.name, index.keys[row].tobytes().hex(), "does not match its checksum")
        for row in broken
    ]
    needed = int(ends.max(initial=0))
    if held != needed:
        found = f"holds {held} bytes, its index points at {needed}"
        damages.insert(0, Damage(data.name, None, found))
    sound = np.delete(np.arange(len(starts)), broken)
    return _Shard(path.stem, index, damages, sound, held + index.num_bytes)


def damaged_rows(index: Index, data: Path, hidden_width: int) -> list[int]:
    """Return the rows of a shard whose records do not match their checksums.

    The file is read, not mapped: a disk's read error is damage too, and must not end the process.
    """
    starts, middles, ends = record_ends(index, hidden_width)
    blocks = [(starts, middles - starts, index.column("crc32"))]
    if hidden_width:
        blocks.append((middles, ends - middles, index.column("hidden_crc32")))
    columns = [
        np.stack(column, axis=1).reshape(-1).tolist() for column in zip(*blocks, strict=True)
    ]
    damaged = []
    try:
        with open(data, "rb", buffering=READ_BYTES) as file:
            for block, (start, size, checksum) in enumerate(zip(*columns, strict=True)):
                try:
                    file.seek(start)
                    good = crc32(file.read(size)) == checksum
                except OSError:
                    good = False
                if not good:
                    damaged.append(block // len(blocks))
    except OSError:  # missing, or not ours to read
        return list(range(len(starts)))
    return list(dict.fromkeys(damaged))


def _repair(folder: Path, namespace: Namespace, damaged: Sequence[_Shard]) -> None:
    rewrites = [Rewrite([(shard.index, shard.sound)]) for shard in damaged if shard.index]
    rewrite(folder, namespace, rewrites)
    with explained(folder):
        for shard in damaged:
            if not shard.index:
                delete_shard(folder, shard.name)
