"""How fast the teacher cache is read, against memory and against other ways to keep the same.

    python -m benchmarks.teacher_cache_read [--utterances 6000] [--large 1500] [--rounds 5]

Utterances of 50 to 800 frames are read in a shuffled order, 32 at a time, each batch into one
padded array. The limit is the same batches out of one array in memory, with the same conversion to
float32. Every read of ours compares a checksum, the others compare none. Times are CPU time on one
core, medians of paired rounds, files in the page cache. Rows go to
benchmarks/results/teacher_cache_read.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import (
    BASE_FRAMES,
    MAX_FRAMES,
    MIN_FRAMES,
    fill,
    key,
    paired_medians,
    posteriors,
    report,
    row,
    synthetic_namespace,
)
from distillery.device import num_threads
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache

BATCH = 32
FRAMES_49_KB = 425
HIDDEN_WIDTH = 768

Read = Callable[[np.ndarray], object]
"""Takes the positions of one batch."""


@dataclass(frozen=True)
class Corpus:
    """The same frames for everybody."""

    frames: np.ndarray
    """All utterances, one after another `(all frames, width)`, as they are stored."""
    starts: np.ndarray
    counts: np.ndarray

    @classmethod
    def generate(cls, base: np.ndarray, counts: np.ndarray) -> Corpus:
        """Return utterances of so many frames, slices of `base` at random places."""
        random = np.random.default_rng(1)
        places = random.integers(0, len(base) - counts.max(), len(counts))
        slices = [base[start : start + n] for start, n in zip(places, counts, strict=True)]
        return cls(np.concatenate(slices), np.cumsum(counts) - counts, counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.frames[self.starts[index] :][: self.counts[index]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def batches(self) -> list[np.ndarray]:
        """Return shuffled positions, 32 at a time."""
        order = np.random.default_rng(2).permutation(len(self))
        return np.array_split(order, max(1, len(order) // BATCH))

    def reader(self, dtype: type) -> Read:
        """Return the limit: padded copies out of memory."""
        return lambda batch: padded(self.__getitem__, self.counts[batch], batch, dtype)


def padded(
    load: Callable[[int], np.ndarray], counts: np.ndarray, batch: np.ndarray, dtype: type
) -> np.ndarray:
    """Return utterances, loaded one by one, in one array, zeros behind."""
    width = load(int(batch[0])).shape[1]
    values = np.empty((len(batch), counts.max(), width), dtype)
    for place, (index, count) in enumerate(zip(batch.tolist(), counts.tolist(), strict=True)):
        values[place, :count] = load(index)
        values[place, count:] = 0
    return values


def read_all(read: Read, batches: list[np.ndarray]) -> Callable[[], None]:
    """Return the job of reading all batches once."""

    def work() -> None:
        for batch in batches:
            read(batch)

    return work


def spread(count: int) -> np.ndarray:
    """Return lengths in frames."""
    return np.random.default_rng(0).integers(MIN_FRAMES, MAX_FRAMES + 1, count)


def filled(folder: Path, kind: str, corpus: Corpus) -> tuple[TeacherCache, np.ndarray]:
    """Return a cache of the corpus, and the row of each of its utterances."""
    entries = (Entry(key(index), values, "", 1.0) for index, values in enumerate(corpus))
    namespace = synthetic_namespace({"kind": kind}, corpus.frames.shape[1])
    return with_rows(fill(folder, namespace, entries), corpus)


def with_rows(cache: TeacherCache, corpus: Corpus) -> tuple[TeacherCache, np.ndarray]:
    """Return a cache, and the row of each utterance."""
    return cache, cache.rows([key(index) for index in range(len(corpus))])


def against_memory(folder: Path, num_small: int, num_large: int, rounds: int) -> list[dict]:
    """Return the rows about payloads of several widths."""
    random = np.random.default_rng(3)
    found = []
    for vocab, kind, dtype, count, goal in [
        (29, "f32", np.float32, num_small, 0.6),
        (29, "u8", np.float32, num_small, None),
        (32, "f16", np.float16, num_small, 0.5),
        (1000, "f16", np.float16, num_large, 0.5),
    ]:
        base = posteriors(random, BASE_FRAMES, vocab).astype(dtype)
        corpus = Corpus.generate(base, spread(count))
        with tempfile.TemporaryDirectory(dir=folder) as place:
            cache, rows = filled(Path(place), kind, corpus)
            read = reader(cache, rows)
            found.append(ratio_row(f"V = {vocab}, {kind}", corpus, read, np.float32, goal, rounds))
    base = random.normal(0, 1, (BASE_FRAMES, HIDDEN_WIDTH)).astype(np.float16)
    corpus = Corpus.generate(base, spread(num_large))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        cache, rows = hidden_cache(Path(place), corpus)

        def read_hidden(batch: np.ndarray) -> object:
            return cache.hidden(rows[batch], "top")

        name = f"hidden states, {HIDDEN_WIDTH} wide, f16"
        found.append(ratio_row(name, corpus, read_hidden, np.float16, 0.5, rounds))
    return found


def hidden_cache(folder: Path, corpus: Corpus) -> tuple[TeacherCache, np.ndarray]:
    """Return a cache whose utterances hold hidden states beside two tokens."""
    namespace = synthetic_namespace({"kind": "u8"}, 2, {"top": HIDDEN_WIDTH})
    entries = (
        Entry(key(i), np.full((len(values), 2), np.log(0.5)), "", 1.0, hidden={"top": values})
        for i, values in enumerate(corpus)
    )
    return with_rows(fill(folder, namespace, entries), corpus)


def reader(cache: TeacherCache, rows: np.ndarray) -> Read:
    """Return the cache's own way."""
    return lambda batch: cache.log_probs(rows[batch])


def tensors(cache: TeacherCache, rows: np.ndarray) -> Read:
    """Return the cache's own way to a tensor."""
    return lambda batch: torch.from_numpy(cache.log_probs(rows[batch]).values)


def ratio_row(
    name: str, corpus: Corpus, read: Read, dtype: type, goal: float | None, rounds: int
) -> dict[str, Any]:
    """Return the row that compares a read with the limit."""
    batches = corpus.batches()
    ours, limit = paired_medians(
        [read_all(read, batches), read_all(corpus.reader(dtype), batches)], rounds
    )
    count = len(corpus)
    return row(
        f"shuffled reads, {name}, {count:,} utterances",
        limit / ours,
        "of the speed of copies in memory",
        None if goal is None else f"at least {goal:g}",
        None if goal is None else limit / ours >= goal,
        f"copies out of one array in memory, no checksum: {1e6 * limit / count:.1f} µs an "
        f"utterance; ours, each read checked: {1e6 * ours / count:.1f} µs",
    )


def against_files(folder: Path, count: int, rounds: int) -> list[dict]:
    """Return the rows about one data set or file an utterance."""
    base = posteriors(np.random.default_rng(3), BASE_FRAMES, 29)
    corpus = Corpus.generate(base, spread(count))
    cache, rows = filled(folder / "cache", "f32", corpus)
    for kind in ("npy", "pt"):
        (folder / kind).mkdir()
    with h5py.File(folder / "all.h5", "w") as file:
        for index, values in enumerate(corpus):
            file.create_group(str(index)).create_dataset("log_probs", data=values)
            np.save(folder / "npy" / f"{index}.npy", values)
            torch.save(torch.from_numpy(values.copy()), folder / "pt" / f"{index}.pt")
    with h5py.File(folder / "all.h5", "r") as file:
        loads: dict[str, Callable[[int], Any]] = {
            "HDF5 with one data set an utterance": lambda i: file[str(i)]["log_probs"][()],
            "one .pt file an utterance": lambda i: torch.load(folder / "pt" / f"{i}.pt").numpy(),
            "one .npy file an utterance": lambda i: np.load(folder / "npy" / f"{i}.npy"),
        }
        batches = corpus.batches()
        reads = [reader(cache, rows)] + [
            lambda batch, load=load: padded(load, corpus.counts[batch], batch, np.float32)
            for load in loads.values()
        ]
        ours, *others = paired_medians([read_all(read, batches) for read in reads], rounds)
    return [
        row(
            f"shuffled reads, V = 29, f32, {count:,} utterances, against {name}",
            seconds / ours,
            "times as fast",
            f"at least {goal}",
            seconds / ours >= goal,
            f"{name}: {1e6 * seconds / count:.0f} µs an utterance; ours, each read checked: "
            f"{1e6 * ours / count:.1f} µs",
        )
        for name, seconds, goal in zip(loads, others, (18, 25, 8), strict=True)
    ]


class Items(Dataset[torch.Tensor]):
    """Single utterances out of one flat, mapped file: no checksum, nothing to look up."""

    def __init__(self, path: Path, corpus: Corpus) -> None:
        self.frames = np.memmap(path, corpus.frames.dtype, "r", shape=corpus.frames.shape)
        self.starts = corpus.starts.tolist()
        self.counts = corpus.counts.tolist()

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: int) -> torch.Tensor:
        start = self.starts[index]
        return torch.from_numpy(np.array(self.frames[start : start + self.counts[index]]))


def pad_items(items: list[torch.Tensor]) -> torch.Tensor:
    """Collate utterances into `(batch, frames, width)`."""
    return pad_sequence(items, batch_first=True)


def family_seconds() -> float:
    """Return the CPU time of this process and of its living children."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + float(sum(item.user + item.system for item in times))


def gathering(folder: Path, count: int, rounds: int) -> list[dict]:
    """Return the rows about whole batches of 49 kB an utterance."""
    base = posteriors(np.random.default_rng(3), BASE_FRAMES, 29)
    corpus = Corpus.generate(base, np.full(count, FRAMES_49_KB))
    batches = corpus.batches()
    reads = {}
    for kind in ("f32", "u8"):
        cache, rows = filled(folder / kind, kind, corpus)
        reads[kind] = tensors(cache, rows)
    seconds = dict(
        zip(
            reads,
            paired_medians([read_all(read, batches) for read in reads.values()], rounds),
            strict=True,
        )
    )
    corpus.frames.tofile(folder / "flat")
    loader = DataLoader(
        Items(folder / "flat", corpus),
        batch_size=BATCH,
        shuffle=True,
        num_workers=1,
        persistent_workers=True,
        collate_fn=pad_items,
    )
    loaded = loader_seconds(loader, rounds)
    found = []
    for kind, value in seconds.items():
        micro = 1e6 * value / count
        found.append(
            row(
                f"batch of {BATCH} gathered into one tensor, {FRAMES_49_KB} frames x 29, {kind}",
                micro,
                "µs of CPU time an utterance",
                "at most 15",
                micro <= 15,
                "each read checked",
            )
        )
        found.append(
            row(
                f"the same, {kind}, against a DataLoader with one worker",
                value / loaded,
                "of its CPU time",
                "at most 0.125",
                value / loaded <= 1 / 8,
                f"per item out of a mapped flat file of f32, no checksum, padded: "
                f"{1e6 * loaded / count:.0f} µs an utterance, worker included",
            )
        )
    return found


def loader_seconds(loader: DataLoader[torch.Tensor], rounds: int) -> float:
    """Return the median CPU time of one epoch, worker included, after a warm-up."""
    times = []
    for _ in range(rounds + 1):
        started = family_seconds()
        for _ in loader:
            pass
        times.append(family_seconds() - started)
    return float(np.median(times[1:]))


def measure(folder: Path, num_small: int, num_large: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    parts = [folder / name for name in ("memory", "files", "gather")]
    for part in parts:
        part.mkdir()
    with num_threads(1):
        return [
            *against_memory(parts[0], num_small, num_large, rounds),
            *against_files(parts[1], num_small, rounds),
            *gathering(parts[2], num_small, rounds),
        ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=6000, help="of V = 29 and 32")
    parser.add_argument("--large", type=int, default=1500, help="of V = 1,000 and hidden states")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.utterances, arguments.large, arguments.rounds)
    report("teacher_cache_read", rows)


if __name__ == "__main__":
    main()
