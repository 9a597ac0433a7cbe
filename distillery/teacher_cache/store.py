"""All shards of one namespace: look-ups, coverage, adding."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distillery.errors import CacheError, CacheMismatch
from distillery.files import write_json
from distillery.teacher_cache.namespace import NAMESPACE_FILE, Namespace
from distillery.teacher_cache.payload import decode, frame_dtype
from distillery.teacher_cache.shards import ShardWriter, read_index

CURRENT_FILE = "current.json"
NAMED_KEYS = 3


class Location(NamedTuple):
    """Where one utterance's frames lie, and its text."""

    shard: str
    start: int  # first byte
    size: int  # bytes
    crc32: int
    greedy_text: str


class TeacherCache:
    """A namespace's shards, opened for reading; frames stay on disk until they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Open a namespace's folder.

        Raises:
            CacheError: namespace.json is missing or damaged, or a shard's data are.
        """
        self.folder = folder
        self.namespace = Namespace.read(folder)
        self._dtype = frame_dtype(self.namespace.log_probs, len(self.namespace.tokens))
        self._maps: dict[str, np.ndarray] = {}
        self._index = self._read_indexes()

    @classmethod
    def create(cls, root: Path, namespace: Namespace) -> TeacherCache:
        """Open the namespace's folder under `root`, made if it is not there yet."""
        folder = root / namespace.folder_name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / NAMESPACE_FILE).exists():
            write_json(folder / NAMESPACE_FILE, namespace.to_json())
        return cls(folder)

    @classmethod
    def open_current(cls, root: Path) -> TeacherCache:
        """Open the namespace that the stage `cache` filled last.

        Raises:
            CacheError: the stage has not run, or what it left is damaged.
        """
        pointer = root / CURRENT_FILE
        try:
            name = json.loads(pointer.read_text("utf-8"))["namespace"]
        except (FileNotFoundError, ValueError, KeyError):
            raise CacheError(f"{pointer}: missing or unreadable; run make cache") from None
        return cls(root / name)

    def make_current(self) -> None:
        """Let `open_current` open this namespace from now on."""
        write_json(self.folder.parent / CURRENT_FILE, {"namespace": self.folder.name})

    def _read_indexes(self) -> dict[str, Location]:
        found: dict[str, Location] = {}
        for path in sorted(self.folder.glob("shard-*.parquet")):
            index = read_index(path)
            data = path.with_suffix(".bin")
            sizes = index["num_frames"] * self._dtype.itemsize
            needed = int((index["offset_bytes"] + sizes).max())
            held = data.stat().st_size if data.exists() else 0
            if held < needed:
                raise CacheError(
                    f"{data}: holds {held} bytes, its index points at {needed}; "
                    f"delete {path.name} and run make cache"
                )
            columns = zip(
                index["key"],
                index["offset_bytes"].tolist(),
                sizes.tolist(),
                index["crc32"].tolist(),
                index["greedy_text"],
                strict=True,
            )
            for key, start, size, crc, text in columns:
                found.setdefault(key, Location(path.stem, start, size, crc, text))
        return found

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the keys that are not cached, each once, in the order given."""
        return [key for key in dict.fromkeys(keys) if key not in self._index]

    def require(self, keys: Iterable[str]) -> None:
        """Make sure that all keys are cached.

        Raises:
            CacheMismatch: some are not; the message counts them and names the first.
        """
        if missing := self.missing(keys):
            named = ", ".join(key[:12] for key in missing[:NAMED_KEYS])
            raise CacheMismatch(
                f"teacher cache {self.folder.name}: {len(missing)} utterances are not in it "
                f"(audio keys {named} …), expected all; run make cache"
            )

    def log_probs(self, key: str) -> np.ndarray:
        """Return the teacher's log-probabilities `(frames, vocab)`, float32, normalised.

        Raises:
            CacheMismatch: the key is not cached.
            CacheError: the stored bytes do not match their checksum.
        """
        place = self._locate(key)
        stored = self._shard(place.shard)[place.start : place.start + place.size]
        if zlib.crc32(stored.data) != place.crc32:
            raise CacheError(
                f"{self.folder / place.shard}.bin: utterance {key[:12]} does not match its "
                f"checksum; delete {place.shard}.parquet and run make cache"
            )
        return decode(stored.view(self._dtype), self.namespace.log_probs)

    def greedy_text(self, key: str) -> str:
        """Return the teacher's greedy hypothesis.

        Raises:
            CacheMismatch: the key is not cached.
        """
        return self._locate(key).greedy_text

    def _locate(self, key: str) -> Location:
        if key not in self._index:
            self.require([key])
        return self._index[key]

    def _shard(self, name: str) -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = np.memmap(self.folder / f"{name}.bin", np.uint8, "r")
        return self._maps[name]

    @property
    def manifest_digest(self) -> str:
        """SHA-256 over keys and checksums in key order: equal for equal content."""
        digest = hashlib.sha256(self.namespace.digest.encode())
        for key, place in sorted(self._index.items()):
            digest.update(f"{key} {place.crc32}\n".encode())
        return digest.hexdigest()

    @contextlib.contextmanager
    def writing(self) -> Iterator[ShardWriter]:
        """Yield a writer for one new shard; it becomes visible when the block ends well."""
        remove_leftovers(self.folder)
        writer = ShardWriter(self.folder, self.namespace.log_probs)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.finish()
        self._index = self._read_indexes()


def remove_leftovers(folder: Path) -> None:
    """Delete half-written files whose process is gone."""
    for path in folder.glob(".open-*.tmp"):
        owner = re.fullmatch(r"\.open-(\d+)\.tmp", path.name)
        if owner and not _alive(int(owner[1])):
            path.unlink(missing_ok=True)


def _alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class CachedTargets:
    """A training set's view of the cache: rows instead of keys."""

    def __init__(
        self,
        cache: TeacherCache,
        keys: Sequence[str],
        hypotheses: Sequence[Sequence[int]],
    ) -> None:
        self.cache = cache
        self.keys = keys
        self.hypotheses = hypotheses

    def log_probs(self, row: int) -> np.ndarray:
        """Return log-probabilities `(frames, vocab)`, float32, of one utterance."""
        return self.cache.log_probs(self.keys[row])

    def hypothesis(self, row: int) -> Sequence[int]:
        """Return the tokens of the teacher's greedy hypothesis for one utterance."""
        return self.hypotheses[row]
