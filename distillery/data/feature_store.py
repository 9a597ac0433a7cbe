"""Features of many utterances on disk, computed once for all models that hear the same.

A store is a folder for one kind of features, whatever utterances a model learns from:

    part-4f1c….bin   float16 features `(feature_frames, mels)` of some utterances, one after another
    part-4f1c….npy   their audio keys, and where in there each ends; written last: it makes the part

Parts never change. Whoever packs holds the folder's lock; of models side by side one packs, the
others wait and find what they need. A kill costs the part that is open, some seconds of work.
Memory holds one part's keys and a few utterances, whatever the corpus.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery.data.cores import usable_cores
from distillery.files import map_file, replace_file

if TYPE_CHECKING:
    Bar = tqdm[NoReturn]  # types know that it is generic, Python does not

PART_BYTES = 2**25
"""Of features in one part, about: some 20 minutes of audio, a few seconds of work."""
AHEAD_PER_THREAD = 4
"""Utterances."""
PART = "part-"
INDEX_DTYPE = np.dtype([("key", "S32"), ("end", "<i8")])
"""SHA-256 of an utterance's audio, and the feature frame behind its last in the part."""
LOCK_FILE = ".lock"

logger = logging.getLogger(__name__)
Make = Callable[[Any], np.ndarray]
"""Returns the features `(feature_frames, mels)`, float16, of an utterance, a row of a manifest."""


@dataclass(frozen=True)
class StoredFeatures:
    """Features of many utterances, mapped from disk, read utterance by utterance."""

    parts: Sequence[np.ndarray]
    """The packed files, each `(feature_frames, mels)`, float16."""
    part: np.ndarray
    """Which of them holds an utterance `(utterances,)`."""
    start: np.ndarray
    """Where in there it begins `(utterances,)`."""
    num_frames: np.ndarray
    """Feature frames of each utterance `(utterances,)`."""

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one utterance's features `(feature_frames, mels)`, float16, a view of the disk."""
        start = self.start[row]
        found: np.ndarray = self.parts[self.part[row]][start : start + self.num_frames[row]]
        return found


@dataclass(frozen=True)
class _Index:
    """What all parts of a store hold."""

    paths: Sequence[Path]
    """Of the packed files."""
    sizes: Sequence[int]
    """Feature frames of each."""
    keys: np.ndarray  # (utterances,), sorted
    part: np.ndarray  # (utterances,)
    start: np.ndarray  # (utterances,)
    num_frames: np.ndarray  # (utterances,)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the place of each key `(keys,)`, -1 where it is not here."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        places = np.searchsorted(self.keys, keys)
        places[places == len(self.keys)] = 0
        return np.where(self.keys[places] == keys, places, -1)


class FeatureStore:
    """One kind of features on disk."""

    def __init__(self, folder: Path, num_mels: int) -> None:
        """Name a store; its folder is made when something is packed.

        Args:
            folder: its own.
            num_mels: width of the features.
        """
        self._folder = folder
        self._num_mels = num_mels

    def pack(self, rows: pd.DataFrame, make: Make) -> StoredFeatures:
        """Return features of utterances; what the store lacks is computed, on all cores.

        Args:
            rows: of a manifest; column `audio_key` is read here.
            make: computes them, in several threads at once.
        """
        keys = np.empty(len(rows), INDEX_DTYPE["key"])
        for place, key in enumerate(rows["audio_key"]):
            keys[place] = bytes.fromhex(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / LOCK_FILE, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._read()
            missing = np.flatnonzero(index.find(keys) < 0)
            if len(missing):
                _, first = np.unique(keys[missing], return_index=True)
                wanted = missing[np.sort(first)]
                if len(wanted) == len(rows):  # no copy of all of them
                    self._fill(keys, rows, make)
                else:
                    self._fill(keys[wanted], rows.take(wanted), make)
                index = self._read()
        places = index.find(keys)
        used, part = np.unique(index.part[places], return_inverse=True)
        parts = [self._map(index.paths[number], index.sizes[number]) for number in used]
        return StoredFeatures(parts, part, index.start[places], index.num_frames[places])

    def _map(self, path: Path, size: int) -> np.ndarray:
        content = map_file(path) if size else b""
        return np.frombuffer(content, np.float16).reshape(size, self._num_mels)

    def _read(self) -> _Index:
        paths, sizes, found = [], [], []
        for path in sorted(self._folder.glob(f"{PART}*.npy")):
            data = path.with_suffix(".bin")
            try:
                part = np.load(path, allow_pickle=False)
                if part.dtype != INDEX_DTYPE or not len(part):
                    raise ValueError(f"its index holds {part.dtype}")
                size, held = int(part["end"][-1]), data.stat().st_size
                if held != size * self._num_mels * 2:
                    raise ValueError(f"{held} bytes, {size} frames were expected")
            except (OSError, ValueError, EOFError, TypeError, IndexError) as error:
                logger.warning("%s: cannot be read (%s); it is computed again", data, error)
                path.unlink(missing_ok=True)
                data.unlink(missing_ok=True)
                continue
            paths.append(data)
            sizes.append(size)
            found.append(part)
        index = np.concatenate([*found, np.empty(0, INDEX_DTYPE)])
        starts = [np.concatenate([[0], part["end"][:-1]]) for part in found]
        start = np.concatenate([*starts, np.empty(0, np.int64)]).astype(np.int64)
        number = np.repeat(np.arange(len(found), dtype=np.int32), [len(part) for part in found])
        del found, starts  # each as large as what is made of it
        order = np.argsort(index["key"])
        num_frames = (index["end"] - start)[order]
        keys = index["key"][order]
        del index
        return _Index(paths, sizes, keys, number[order], start[order], num_frames)

    def _fill(self, keys: np.ndarray, rows: pd.DataFrame, make: Make) -> None:
        """Write utterances that are not here in parts; the caller holds the lock."""
        for path in self._folder.glob(f"{PART}*.bin"):  # a killed one's open part
            if not path.with_suffix(".npy").exists():
                path.unlink()
        for path in self._folder.glob(".*.tmp"):
            path.unlink()
        made = _in_order(make, rows.itertuples(), usable_cores())
        done = 0
        with tqdm(total=len(keys), desc="features", unit="utt", leave=False) as bar:
            while done < len(keys):
                done += self._write_part(keys[done:], made, bar)

    def _write_part(self, keys: np.ndarray, made: Iterator[np.ndarray], bar: Bar) -> int:
        """Write the next utterances as one part; return how many."""
        temporary = self._folder / f".{PART}open.tmp"
        ends, end = array("q"), 0
        try:
            with open(temporary, "wb") as file:
                for features in made:
                    file.write(np.ascontiguousarray(features).data)
                    end += len(features)
                    ends.append(end)
                    bar.update()
                    if file.tell() >= PART_BYTES:
                        break
            index = np.empty(len(ends), INDEX_DTYPE)
            index["key"], index["end"] = keys[: len(ends)], ends
            name = hashlib.sha256(index["key"].tobytes()).hexdigest()[:16]
            replace_file(temporary, self._folder / f"{PART}{name}.bin")
            with open(temporary, "wb") as file:
                np.save(file, index, allow_pickle=False)
            replace_file(temporary, self._folder / f"{PART}{name}.npy")
        finally:
            temporary.unlink(missing_ok=True)
        return len(ends)


def _in_order(make: Make, rows: Iterable[Any], num_threads: int) -> Iterator[np.ndarray]:
    """Yield what is made, in the order given, by a few threads a few utterances ahead."""
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(num_threads, "features") as pool:
        try:
            for row in rows:
                waiting.append(pool.submit(make, row))
                if len(waiting) >= num_threads * AHEAD_PER_THREAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
