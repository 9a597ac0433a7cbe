"""Looking after a cache: its size, what is damaged, what may go, fewer and larger shards.

Shards never change. To leave records out, or to put shards together, new shards are written and the
old ones deleted after that, in an order in which readers find the same content at any moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

import numpy as np
from isal.isal_zlib import crc32

from distillery.errors import CacheError
from distillery.teacher_cache.namespace import DIGEST_CHARACTERS, NAMESPACE_FILE, Namespace
from distillery.teacher_cache.payload import payload_of
from distillery.teacher_cache.shards import (
    DATA_SUFFIX,
    INDEX_SUFFIX,
    Index,
    ShardWriter,
    explained,
    leftovers,
    locked,
    map_file,
    read_index,
)
from distillery.teacher_cache.store import SHARD_PATTERN, TeacherCache

READ_BYTES = 2**20
SECONDS_PER_HOUR = 3600

Progress = Callable[[int], object]


def namespace_folders(root: Path) -> list[Path]:
    """Return the folders of all namespaces, damaged ones included, sorted.

    Raises:
        CacheError: there is none.
    """
    names = re.compile(f"[0-9a-f]{{{DIGEST_CHARACTERS}}}")
    folders = sorted(p for p in root.glob("*") if p.is_dir() and names.fullmatch(p.name))
    if not folders:
        raise CacheError(f"{root}: holds no namespace; run make cache")
    return folders


# --- stats ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistics:
    """What a namespace holds."""

    namespace: str
    num_bytes: int
    """Of all files: data, indexes, description, leftovers."""
    damaged: str | None = None
    """Why it cannot be opened; the fields below are empty then."""
    data_bytes: int = 0
    index_bytes: int = 0
    num_utterances: int = 0
    """Each key once."""
    num_frames: int = 0
    num_blank_frames: int = 0
    num_shards: int = 0
    audio_seconds: float = 0.0
    """Frames times frame shift."""
    payload: str = ""
    compute_dtype: str = ""
    teacher: str = ""
    """Its fingerprint."""


def statistics(folder: Path) -> Statistics:
    """Return what a namespace holds, or why it cannot be opened."""
    size = folder_bytes(folder)
    try:
        cache = TeacherCache(folder)
    except CacheError as error:
        return Statistics(folder.name, size, damaged=str(error))
    rows = cache.all_rows
    blanks = [index.column("num_blank_frames") for index in cache.shards]
    num_frames = int(cache.num_frames(rows).sum())
    return Statistics(
        folder.name,
        size,
        data_bytes=sum(cache.data_bytes),
        index_bytes=sum(index.num_bytes for index in cache.shards),
        num_utterances=len(cache),
        num_frames=num_frames,
        num_blank_frames=int(np.concatenate(blanks)[rows].sum()) if blanks else 0,
        num_shards=len(cache.shards),
        audio_seconds=num_frames * cache.namespace.frame_shift_seconds,
        payload=str(cache.namespace.payload["kind"]),
        compute_dtype=cache.namespace.compute_dtype,
        teacher=str(cache.namespace.teacher.get("fingerprint", "")),
    )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


# --- verify ---------------------------------------------------------------------------------------


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


def record_ends(index: Index, hidden_width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where records start, where their hidden states do, and where they end, in bytes."""
    starts = index.column("offset_bytes")
    middles = starts + index.column("num_bytes")
    frames = index.column("num_frames").astype(np.int64)
    return starts, middles, middles + 2 * hidden_width * frames


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


# --- new shards for old ---------------------------------------------------------------------------


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


# --- compact --------------------------------------------------------------------------------------


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


# --- gc -------------------------------------------------------------------------------------------


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
