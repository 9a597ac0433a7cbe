"""One immutable shard: raw records in a .bin file, its index in an .arrow file beside it.

A shard's name ends in the checksum of its index, and the index holds the checksums of all records,
so the name alone pins every byte. A shard exists once its index does; the index is written last.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from isal.isal_zlib import crc32  # the values of zlib.crc32, ten times as fast

from distillery.errors import CacheError
from distillery.files import map_file, replace_file
from distillery.teacher_cache.payload import Payload

KEY_BYTES = 32
LOCK_POLL_SECONDS = 0.05
HALF_THE_MASS = math.log(0.5)
WRITE_BYTES = 2**20  # at once: the page cache takes large pieces twice as fast as single records
INDEX_SUFFIX, DATA_SUFFIX = ".arrow", ".bin"
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.binary(KEY_BYTES)),  # SHA-256 of the samples that the teacher heard
        ("offset_bytes", pa.int64()),  # first byte of the record in the .bin file
        ("num_bytes", pa.int64()),  # of the token distributions; hidden states follow
        ("num_frames", pa.int32()),
        ("crc32", pa.uint32()),  # of the token distributions
        ("hidden_crc32", pa.uint32()),  # of the hidden states; 0 where there are none
        ("num_blank_frames", pa.int32()),  # frames in which the blank has more than half the mass
        ("confidence", pa.float32()),
        ("greedy_text", pa.string()),
        ("hypotheses", pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())]))),
    ]
)
REPAIR = "run `distillery cache verify --repair`, then make cache"


class Hypothesis(NamedTuple):
    """One decoding of an utterance."""

    text: str
    score: float  # nats: ln P(text | audio) over all alignments, and a language model's share


@dataclass(frozen=True)
class Entry:
    """What the teacher said about one recording."""

    key: str
    """Hexadecimal SHA-256 of the samples."""
    log_probs: np.ndarray
    """`(frames, vocab)`."""
    greedy_text: str
    confidence: float
    hypotheses: Sequence[Hypothesis] = ()
    """Best first."""
    hidden: Mapping[str, np.ndarray] = field(default_factory=dict)
    """`(frames, width)` of every layer that the namespace stores."""


@dataclass(frozen=True)
class Index:
    """A shard's index, mapped from disk."""

    name: str
    table: pa.RecordBatch
    num_bytes: int  # of the index file

    def column(self, name: str) -> np.ndarray:
        """Return a column of numbers `(rows,)`, a view of the disk."""
        values: np.ndarray = self.table.column(name).to_numpy()
        return values

    @property
    def keys(self) -> np.ndarray:
        """Keys `(rows, 32)`, uint8, a view of the disk."""
        column = self.table.column("key")
        values = np.frombuffer(column.buffers()[1], np.uint8)
        return values.reshape(-1, KEY_BYTES)[column.offset :][: len(column)]


def key_bytes(key: str) -> bytes:
    """Return a key as 32 bytes.

    Raises:
        CacheError: it is no hexadecimal SHA-256.
    """
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise CacheError(f"audio key {key!r}: expected {2 * KEY_BYTES} hexadecimal digits")
    return raw


class ShardWriter:
    """Writes one shard; nothing of it exists for readers before `finish`."""

    def __init__(
        self, folder: Path, payload: Payload, hidden: Mapping[str, int], blank: int
    ) -> None:
        self.folder = folder
        self.payload = payload
        self.hidden = hidden
        self.blank = blank
        self._rows: list[tuple[Any, ...]] = []
        self._position = 0
        self.is_whole = True
        """Whether nothing stands in the file that is not in the index: no record is half done."""
        self._temporary = folder / f".open-{uuid.uuid4().hex}.tmp"
        with explained(folder):
            self._file = open(self._temporary, "wb", WRITE_BYTES)  # noqa: SIM115  # closed below

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, entry: Entry) -> None:
        """Append one utterance.

        Raises:
            CacheError: its outputs are no numbers or of the wrong shape, or the disk is full.
        """
        self._check(entry)
        blocks = self.payload.encode(entry.log_probs)
        hidden = [entry.hidden[name].astype("<f2") for name in self.hidden]
        self.is_whole = False
        with explained(self.folder):
            num_bytes, checksum = self._write(blocks)
            hidden_bytes, hidden_checksum = self._write(hidden)
        self.append_row(
            (
                key_bytes(entry.key),
                self._position,
                num_bytes,
                len(entry.log_probs),
                checksum,
                hidden_checksum,
                np.count_nonzero(entry.log_probs[:, self.blank : self.blank + 1] > HALF_THE_MASS),
                entry.confidence,
                entry.greedy_text,
                [tuple(item) for item in entry.hypotheses],
            ),
            num_bytes + hidden_bytes,
        )

    def copy(self, row: Sequence[Any], record: np.ndarray) -> None:
        """Append a record of another shard as it is.

        Args:
            row: its values in the order of INDEX_SCHEMA.
            record: its bytes, hidden states included.
        """
        self.is_whole = False
        with explained(self.folder):
            self._file.write(record.data)
        self.append_row((row[0], self._position, *row[2:]), len(record))

    def append_row(self, row: tuple[Any, ...], num_bytes: int) -> None:
        """Note what was written."""
        self._rows.append(row)
        self._position += num_bytes
        self.is_whole = True

    def _check(self, entry: Entry) -> None:
        shape = entry.log_probs.shape
        who = f"utterance {entry.key[:12]}"
        if len(shape) != 2 or shape[1] != self.payload.num_tokens:
            raise CacheError(
                f"{who}: the teacher gave an array {shape}, expected (frames, "
                f"{self.payload.num_tokens})"
            )
        if not entry.log_probs.max(initial=-np.inf) < np.inf:  # NaN is not less either
            raise CacheError(f"{who}: the teacher gave NaN or infinity; nothing of it is stored")
        for name, width in self.hidden.items():
            if name not in entry.hidden:
                raise CacheError(f"{who}: layer {name!r} is missing, the namespace stores it")
            found = entry.hidden[name].shape
            if found != (shape[0], width):
                raise CacheError(
                    f"{who}: layer {name!r} gave an array {found}, expected {(shape[0], width)}"
                )
            if not _fits_half(entry.hidden[name]):
                raise CacheError(
                    f"{who}: layer {name!r} gave NaN, or values beyond half precision; leave it "
                    "out of cache.payload.hidden_layers"
                )

    def _write(self, blocks: Sequence[np.ndarray]) -> tuple[int, int]:
        size = checksum = 0
        for block in blocks:
            if block.size:
                data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                checksum = crc32(data, checksum)
                self._file.write(data)
                size += len(data)
        return size, checksum

    def finish(self) -> str | None:
        """Make the shard visible and return its name, or None when it is empty.

        Raises:
            CacheError: the disk is full.
        """
        if not self._rows:
            self.abandon()
            return None
        columns = list(zip(*self._rows, strict=True))
        arrays = [pa.array(c, f.type) for c, f in zip(columns, INDEX_SCHEMA, strict=True)]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
            writer.write_batch(pa.record_batch(arrays, INDEX_SCHEMA))
        content = sink.getvalue()
        name = shard_name(columns[0], crc32(content))
        with explained(self.folder):
            self._file.flush()
            replace_file(self._temporary, self.folder / f"{name}{DATA_SUFFIX}")
            self._file.close()
            self._publish(self.folder / f"{name}{INDEX_SUFFIX}", content)
        return name

    def _publish(self, path: Path, content: pa.Buffer) -> None:
        temporary = self.folder / f".index-{uuid.uuid4().hex}.tmp"
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            sync_folder(self.folder)  # the data's name must outlive a power cut before the index's
            replace_file(temporary, path)
        sync_folder(self.folder)

    def abandon(self) -> None:
        """Drop what was written so far."""
        with suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def _fits_half(values: np.ndarray) -> bool:
    most = np.finfo(np.float16).max
    return bool(values.max(initial=0) <= most and values.min(initial=0) >= -most)


def shard_name(keys: Sequence[bytes], index_checksum: int) -> str:
    """Return a shard's name: a hash of its keys and the checksum of its index."""
    return f"shard-{hashlib.sha256(b''.join(keys)).hexdigest()[:12]}-{index_checksum:08x}"


def read_index(path: Path) -> Index:
    """Map a shard's index and check it against the shard's name, and its data's size.

    Raises:
        CacheError: the index is damaged, or the data file is missing or too short.
    """
    try:
        content = map_file(path)
        damaged = f"{crc32(content):08x}" != path.stem.rpartition("-")[2]
        if damaged:
            raise CacheError(f"{path}: does not match the checksum in its name; {REPAIR}")
        table = pa.ipc.open_file(content).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise CacheError(f"{path}: cannot be read ({error}); {REPAIR}") from error
    if not table.schema.equals(INDEX_SCHEMA):
        raise CacheError(f"{path}: columns {table.schema.names}, expected {INDEX_SCHEMA.names}")
    return Index(path.stem, table, content.size)


def check_size(index: Index, folder: Path, needed: int) -> int:
    """Return the bytes of a shard's data file, which must hold those that the index points at.

    Raises:
        CacheError: the file is missing or too short.
    """
    path = folder / f"{index.name}{DATA_SUFFIX}"
    try:
        held = path.stat().st_size
    except FileNotFoundError:
        held = 0
    if held < needed:
        raise CacheError(f"{path}: holds {held} bytes, its index points at {needed}; {REPAIR}")
    return held


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{folder}: cannot be written ({error.strerror}); finished shards are whole and stay. "
            "Make room or give the right to write, then run make cache"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, *, alone: bool, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a folder's lock: together with other writers, or alone to delete files.

    The lock ends with the process that holds it, however that ends.

    Raises:
        CacheError: somebody else's lock excludes this one, and goes on doing so.
    """
    with explained(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        mode = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(handle, mode):
            if time.monotonic() > deadline:
                others = "somebody writes to it" if alone else "gc, compact or a repair is at work"
                raise CacheError(f"{folder}: {others}; wait for that to end, then try again")
            time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def leftovers(folder: Path) -> list[Path]:
    """Return half-written files, and data whose index was never written, sorted.

    While somebody writes some of them are alive: only the holder of the lock may delete them.
    """
    orphans = [
        path
        for path in folder.glob(f"shard-*{DATA_SUFFIX}")
        if not path.with_suffix(INDEX_SUFFIX).exists()
    ]
    return sorted([*folder.glob(".*.tmp"), *orphans])


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left, unless somebody is writing just now, or nobody may."""
    with suppress(CacheError), locked(folder, alone=True), explained(folder):
        for path in leftovers(folder):
            path.unlink(missing_ok=True)
