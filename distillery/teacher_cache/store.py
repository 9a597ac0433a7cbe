"""All shards of one namespace: look-ups, coverage, batches, adding."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from isal.isal_zlib import crc32

from distillery.errors import CacheError, CacheMismatch
from distillery.files import map_file, write_json
from distillery.teacher_cache.namespace import NAMESPACE_FILE, Namespace
from distillery.teacher_cache.payload import Targets, gather, payload_of
from distillery.teacher_cache.shards import (
    DATA_SUFFIX,
    INDEX_SUFFIX,
    REPAIR,
    Hypothesis,
    ShardWriter,
    check_size,
    explained,
    key_bytes,
    locked,
    read_index,
)
from distillery.teacher_cache.stopping import stop_held_back

CURRENT_FILE = "current.json"
NAMED_KEYS = 3
ROWS_AT_ONCE = 2**14
"""Of which to hold texts as Python's strings."""
KEYS_AT_ONCE = 2**16
"""Looked up together: as Python objects keys take some 250 bytes each."""
LOCK_WAIT_SECONDS = 10.0  # cleaning up is quick, compacting is not
SHARD_PATTERN = f"shard-*{INDEX_SUFFIX}"


class Keys(Protocol):
    """Keys that can be read more than once: a list, or a column of a table."""

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...


class Batch(NamedTuple):
    """Numbers of several utterances in one array, zeros behind."""

    values: np.ndarray  # (batch, frames, width)
    num_frames: np.ndarray  # (batch,)


class TeacherCache:
    """A namespace's shards, opened for reading; records stay on disk until they are asked for.

    A key becomes a row once, with `rows`; everything else takes rows, many at a time.
    """

    def __init__(self, folder: Path) -> None:
        """Open a namespace's folder.

        Raises:
            CacheError: namespace.json or an index is missing or damaged, or data are cut short.
        """
        self.folder = folder
        self.namespace = Namespace.read(folder)
        self.payload = payload_of(
            self.namespace.payload, len(self.namespace.tokens), self.namespace.blank
        )
        self._hidden_width = sum(self.namespace.hidden.values())
        self.reload()

    @classmethod
    def create(cls, root: Path, namespace: Namespace) -> TeacherCache:
        """Open the namespace's folder under `root`, made if it is not there yet.

        A damaged description is written anew: the folder's name says what it must be.

        Raises:
            CacheError: it cannot be made, or a shard is damaged.
        """
        folder = root / namespace.folder_name
        try:
            Namespace.read(folder)
        except CacheError:
            with explained(root):
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / NAMESPACE_FILE, namespace.to_json())
        return cls(folder)

    @classmethod
    def open_current(cls, root: Path) -> TeacherCache:
        """Open the namespace that the stage `cache` filled last.

        Raises:
            CacheError: the stage has not run, or what it left is damaged.
        """
        return cls(root / current_namespace(root))

    def make_current(self) -> None:
        """Let `open_current` open this namespace from now on; nothing is written where it does."""
        with contextlib.suppress(CacheError):
            if current_namespace(self.folder.parent) == self.folder.name:
                return
        with explained(self.folder.parent):
            write_json(self.folder.parent / CURRENT_FILE, {"namespace": self.folder.name})

    # --- looking up -------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the indexes anew: shards that others have finished since become visible."""
        self.shards = [read_index(path) for path in sorted(self.folder.glob(SHARD_PATTERN))]
        self._records: dict[int, np.ndarray] = {}
        counts = [len(item.table) for item in self.shards]
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._starts = self._column("offset_bytes", np.int64)
        self._sizes = self._column("num_bytes", np.int64)
        self._frames = self._column("num_frames", np.int32)
        self._checksums = self._column("crc32", np.uint32)
        ends = self._starts + self._sizes + 2 * self._hidden_width * self._frames.astype(np.int64)
        self.data_bytes = [
            check_size(item, self.folder, int(ends[after - 1]) if count else 0)
            for item, count, after in zip(self.shards, counts, self._first[1:], strict=True)
        ]
        heads = [item.keys[:, :8].copy().view("<u8")[:, 0] for item in self.shards]
        all_heads = np.concatenate(heads) if heads else np.zeros(0, "<u8")
        self._order = np.argsort(all_heads)
        self._heads = all_heads[self._order]
        self._drop_repeats()

    def _column(self, name: str, dtype: type) -> np.ndarray:
        columns = [item.column(name) for item in self.shards]
        return np.concatenate(columns) if columns else np.zeros(0, dtype)

    def _drop_repeats(self) -> None:
        """Forget rows whose key stands in an earlier shard too: two writers may both add it."""
        suspects = np.flatnonzero(self._heads[1:] == self._heads[:-1]) + 1
        if not len(suspects):
            return
        seen: set[bytes] = set()
        around = np.unique(np.concatenate([suspects - 1, suspects]))
        rows = self._order[around]
        self._order[around] = rows[np.lexsort((rows, self._heads[around]))]  # the earliest wins
        repeated = []
        for position, key in zip(around, self._keys_at(self._order[around]), strict=True):
            if key in seen:
                repeated.append(position)
            seen.add(key)
        self._order = np.delete(self._order, repeated)
        self._heads = np.delete(self._heads, repeated)

    def _keys_at(self, rows: np.ndarray) -> list[bytes]:
        return [raw.tobytes() for raw in self._raw_keys(rows)]

    def _raw_keys(self, rows: np.ndarray) -> np.ndarray:
        """Return keys `(rows, 32)`, uint8."""
        keys = np.empty((len(rows), 32), np.uint8)
        shard_of = np.searchsorted(self._first, rows, side="right") - 1
        for shard in np.unique(shard_of):
            mine = shard_of == shard
            keys[mine] = self.shards[shard].keys[rows[mine] - self._first[shard]]
        return keys

    def _find(self, keys: Iterable[str]) -> np.ndarray:
        """Return the row of every key `(keys,)`, -1 where it is not cached."""
        found = [self._find_some(piece) for piece in _in_pieces(keys)]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _find_some(self, keys: Sequence[str]) -> np.ndarray:
        raw = np.frombuffer(b"".join(map(key_bytes, keys)), np.uint8).reshape(-1, 32)
        wanted = raw[:, :8].copy().view("<u8")[:, 0]
        found = np.full(len(keys), -1, np.int64)
        if not len(self._heads):
            return found
        places = np.searchsorted(self._heads, wanted)
        open_ones = np.arange(len(keys))
        while len(open_ones):  # more than once only where two keys share their first 8 bytes
            inside = places[open_ones] < len(self._heads)
            open_ones = open_ones[inside]
            open_ones = open_ones[self._heads[places[open_ones]] == wanted[open_ones]]
            rows = self._order[places[open_ones]]
            same = (self._raw_keys(rows) == raw[open_ones]).all(axis=1)
            found[open_ones[same]] = rows[same]
            open_ones = open_ones[~same]
            places[open_ones] += 1
        return found

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, key: str) -> bool:
        return bool(self._find([key])[0] >= 0)

    @property
    def all_rows(self) -> np.ndarray:
        """Rows of all utterances, each key once."""
        return self._order

    def keys(self, rows: np.ndarray) -> list[str]:
        """Return the keys of rows."""
        return [key.hex() for key in self._keys_at(np.asarray(rows))]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that are not cached, each once, in the order given."""
        absent: dict[str, None] = {}
        for piece in _in_pieces(keys):
            is_absent = self._find_some(piece) < 0
            absent.update((piece[i], None) for i in np.flatnonzero(is_absent))
        return list(absent)

    def holds(self, keys: Iterable[str]) -> np.ndarray:
        """Return which keys are cached, bool `(keys,)`."""
        held: np.ndarray = self._find(keys) >= 0
        return held

    def require(self, keys: Iterable[str]) -> None:
        """Make sure that all keys are cached.

        Raises:
            CacheMismatch: some are not; the message counts them and names the first.
        """
        if missing := self.missing(keys):
            named = ", ".join(key[:12] for key in missing[:NAMED_KEYS])
            more = " …" if len(missing) > NAMED_KEYS else ""
            raise CacheMismatch(
                f"teacher cache {self.folder.name}: {len(missing)} utterances are not in it "
                f"(audio keys {named}{more}), expected all; run make cache"
            )

    def rows(self, keys: Keys) -> np.ndarray:
        """Return the rows of keys `(keys,)`, int64, for this opened cache.

        Args:
            keys: a list, or a column of a table, of which nothing is copied.

        Raises:
            CacheMismatch: a key is not cached.
        """
        found = self._find(keys)
        if (found < 0).any():
            self.require(keys)
        return found

    # --- reading ----------------------------------------------------------------------------------

    def num_frames(self, rows: np.ndarray) -> np.ndarray:
        """Return the frames of rows, int64."""
        frames: np.ndarray = self._frames[rows].astype(np.int64)
        return frames

    def log_probs(self, rows: np.ndarray) -> Batch:
        """Return log-probabilities `(batch, frames, vocab)`, float32, each frame summing to one.

        Raises:
            CacheError: a record is damaged, or the payload does not keep all tokens.
        """
        counts = self.num_frames(rows)
        return Batch(self.payload.log_probs(self._token_records(rows), counts), counts)

    def targets(self, rows: np.ndarray, temperature: float = 1.0) -> Targets:
        """Return distributions softened by a temperature; every payload answers this.

        Raises:
            CacheError: a record is damaged, or a sparse payload lacks the temperature.
        """
        return self.payload.targets(self._token_records(rows), self.num_frames(rows), temperature)

    def hidden(self, rows: np.ndarray, layer: str) -> Batch:
        """Return a layer's hidden states `(batch, frames, width)`, float16.

        Raises:
            CacheError: the layer is not stored, or a record is damaged.
        """
        widths = self.namespace.hidden
        if layer not in widths:
            stored = ", ".join(sorted(widths)) or "none"
            raise CacheError(
                f"teacher cache {self.folder.name}: layer {layer!r} is not stored, only {stored}; "
                "add it to cache.payload.hidden_layers and run make cache"
            )
        names = list(widths)
        before = 2 * sum(widths[name] for name in names[: names.index(layer)])
        own = 2 * widths[layer]
        counts = self.num_frames(rows)
        records = (
            record[before * frames : (before + own) * frames]
            for record, frames in zip(self._hidden_records(rows), counts.tolist(), strict=True)
        )
        return Batch(gather(records, counts, widths[layer], "<f2", "<f2"), counts)

    def greedy_texts(self, rows: np.ndarray) -> list[str]:
        """Return the teacher's best-path texts."""
        return [str(text) for text in self._values("greedy_text", rows)]

    def confidences(self, rows: np.ndarray) -> np.ndarray:
        """Return the teacher's confidences `(rows,)`, in (0, 1]."""
        return np.array(self._values("confidence", rows), np.float32)

    def hypotheses(self, rows: np.ndarray) -> list[list[Hypothesis]]:
        """Return the teacher's hypotheses of each row, best first."""
        return [
            [Hypothesis(item["text"], item["score"]) for item in items]
            for items in self._values("hypotheses", rows)
        ]

    def _values(self, name: str, rows: np.ndarray) -> list[Any]:
        """Return values of a column; what that costs does not depend on how many shards there are.

        Rows of a training set stand in any order, a few of them in each of thousands of shards.
        """
        shard_of = np.searchsorted(self._first, rows, side="right") - 1
        column_of = {
            shard: self.shards[shard].table.column(name) for shard in np.unique(shard_of).tolist()
        }
        local = np.asarray(rows) - self._first[shard_of]
        places = zip(shard_of.tolist(), local.tolist(), strict=True)
        return [column_of[shard][place].as_py() for shard, place in places]

    def _token_records(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        return self._checked(rows, self._starts[rows], self._sizes[rows], self._checksums[rows])

    def _hidden_records(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        starts = self._starts[rows] + self._sizes[rows]
        sizes = 2 * self._hidden_width * self.num_frames(rows)
        checksums = np.array(self._values("hidden_crc32", rows), np.uint32)
        return self._checked(rows, starts, sizes, checksums)

    def _checked(
        self, rows: np.ndarray, starts: np.ndarray, sizes: np.ndarray, checksums: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Yield records as views of the disk, each compared with its checksum.

        One at a time: what was just compared is copied out of the processor's cache.
        """
        shards = np.searchsorted(self._first, rows, side="right") - 1
        numbers = (shards, starts, starts + sizes, checksums, rows)
        for shard, start, end, checksum, row in zip(*(x.tolist() for x in numbers), strict=True):
            record = self._data(shard)[start:end]
            if crc32(record) != checksum:
                raise CacheError(self._damage(row, shard))
            yield record

    def _damage(self, row: int, shard: int) -> str:
        (key,) = self.keys(np.array([row]))
        return (
            f"{self.folder / self.shards[shard].name}{DATA_SUFFIX}: utterance {key[:12]} does not "
            f"match its checksum; {REPAIR}"
        )

    def _data(self, shard: int) -> np.ndarray:
        """Return a shard's bytes, mapped when they are first asked for."""
        if shard not in self._records:
            path = self.folder / f"{self.shards[shard].name}{DATA_SUFFIX}"
            try:
                empty = self.data_bytes[shard] == 0
                content = b"" if empty else map_file(path)
            except OSError as error:
                raise CacheError(
                    f"{path}: cannot be read ({error.strerror}): deleted since the cache was "
                    "opened, by gc or compact? Start again"
                ) from error
            self._records[shard] = np.frombuffer(content, np.uint8)
        return self._records[shard]

    # --- the whole --------------------------------------------------------------------------------

    @property
    def manifest_digest(self) -> str:
        """SHA-256 over keys and checksums in key order, so it does not depend on the shards."""
        digest = hashlib.sha256(self.namespace.digest.encode())
        keys = self._raw_keys(self._order)
        hidden = self._column("hidden_crc32", np.uint32)
        order = np.lexsort(keys.view(">u8").T[::-1])
        for start in range(0, len(order), KEYS_AT_ONCE):
            part = order[start : start + KEYS_AT_ONCE]
            rows = self._order[part]
            checksums = np.stack([self._checksums[rows], hidden[rows]], axis=1).astype("<u4")
            lines = np.concatenate([keys[part], checksums.view(np.uint8).reshape(-1, 8)], axis=1)
            digest.update(np.ascontiguousarray(lines).data)
        return digest.hexdigest()

    # --- writing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[ShardWriter]:
        """Yield a writer for one new shard; it is whole on disk when the block ends well.

        So it is where SIGTERM or Ctrl-C ends the block: what was added by then stays. `reload`
        makes it visible here; caches opened later see it anyway.

        Raises:
            CacheError: the folder cannot be written, or shards are being deleted just now.
        """
        with writing(self.folder, self.namespace) as writer:
            yield writer

    def new_writer(self) -> ShardWriter:
        """Return a writer for one new shard; the caller holds the lock."""
        return _new_writer(self.folder, self.namespace)


@contextlib.contextmanager
def writing(
    folder: Path,
    namespace: Namespace,
    publishing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[ShardWriter]:
    """Do what `TeacherCache.writing` does, for who need not know what the cache holds.

    Args:
        folder: of the namespace.
        namespace: as it is described there.
        publishing: what to be in while the shard is made visible; it may refuse.

    Raises:
        CacheError: the folder cannot be written, or shards are being deleted just now.
    """
    with locked(folder, alone=False, wait_seconds=LOCK_WAIT_SECONDS):
        writer = _new_writer(folder, namespace)
        try:
            yield writer
        except (KeyboardInterrupt, SystemExit):
            _close(writer, publishing if writer.is_whole else None)
            raise
        except BaseException:
            _close(writer, None)
            raise
        _close(writer, publishing)


def _new_writer(folder: Path, namespace: Namespace) -> ShardWriter:
    payload = payload_of(namespace.payload, len(namespace.tokens), namespace.blank)
    return ShardWriter(folder, payload, namespace.hidden, namespace.blank)


def _close(
    writer: ShardWriter, publishing: Callable[[], AbstractContextManager[object]] | None
) -> None:
    """Make a shard visible inside a context; without one, drop it."""
    with stop_held_back():
        try:
            if publishing is None:
                writer.abandon()
            else:
                with publishing():
                    writer.finish()
        except BaseException:
            writer.abandon()
            raise


def _in_pieces(keys: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(keys)
    while piece := list(islice(remaining, KEYS_AT_ONCE)):
        yield piece


def current_namespace(root: Path) -> str:
    """Return the name of the namespace that the stage `cache` filled last.

    Raises:
        CacheError: there is none, or the pointer is damaged.
    """
    pointer = root / CURRENT_FILE
    try:
        return str(json.loads(pointer.read_text("utf-8"))["namespace"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CacheError(f"{pointer}: missing or unreadable; run make cache") from None


def all_namespaces(root: Path) -> list[Path]:
    """Return the folders of all namespaces, sorted."""
    return sorted(path.parent for path in root.glob(f"*/{NAMESPACE_FILE}"))
