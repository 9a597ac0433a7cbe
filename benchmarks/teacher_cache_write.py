"""How fast the teacher cache is written and verified, and in how much memory.

    python -m benchmarks.teacher_cache_write [--utterances 6000] [--rounds 5]

Utterances of 50 to 800 frames are written as f32 and as u8, in shards of an hour. The limit is the
same bytes in the same pieces into flat files of the same sizes, each synced once: no checksum, no
index. Speeds are MB of stored data per CPU second on one core, medians of paired rounds. Rows go
to benchmarks/results/teacher_cache_write.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    BASE_FRAMES,
    FRAMES_PER_HOUR,
    MAX_FRAMES,
    MIN_FRAMES,
    cpu_seconds,
    fill,
    in_child,
    key,
    memory_mib,
    posteriors,
    report,
    row,
    synthetic_namespace,
    write_all,
)
from distillery.teacher_cache.payload import payload_of
from distillery.teacher_cache.shards import WRITE_BYTES, Entry
from distillery.teacher_cache.store import TeacherCache
from distillery.teacher_cache.upkeep.verification import verify

VOCAB = 29
MIN_RATIO = 0.8
MAX_EXTRA_MIB = 64
MIN_VERIFY_GB = 2.0


def utterances(count: int) -> list[np.ndarray]:
    """Return log-probabilities `(frames, vocab)`: views of the same generated frames."""
    random = np.random.default_rng(0)
    base = posteriors(random, BASE_FRAMES, VOCAB)
    frames = random.integers(MIN_FRAMES, MAX_FRAMES + 1, count)
    starts = random.integers(0, BASE_FRAMES - MAX_FRAMES, count)
    return [base[start : start + n] for start, n in zip(starts, frames, strict=True)]


def entries(items: list[np.ndarray]) -> Iterator[Entry]:
    """Yield utterances as the teacher pass gives them."""
    return (Entry(key(index), values, "words", 0.9) for index, values in enumerate(items))


def shards_of(items: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the utterances that come into each shard of an hour."""
    starts = np.cumsum([len(values) for values in items]) - len(items[0])
    cuts = np.flatnonzero(np.diff(starts // FRAMES_PER_HOUR)) + 1
    return [items[a:b] for a, b in zip([0, *cuts], [*cuts, len(items)], strict=True)]


def write_flat(folder: Path, shards: list[list[list[np.ndarray]]], buffer_bytes: int = -1) -> None:
    """Write ready blocks into one file a shard, synced; -1 is Python's own buffer."""
    folder.mkdir()
    for index, records in enumerate(shards):
        with open(folder / str(index), "wb", buffer_bytes) as file:
            for blocks in records:
                for block in blocks:
                    file.write(block.data)
            file.flush()
            os.fsync(file.fileno())


def speeds(folder: Path, kind: str, items: list[np.ndarray], rounds: int) -> list[float]:
    """Return MB per CPU second of the cache, of flat files, and of those with our buffer."""
    namespace = synthetic_namespace({"kind": kind}, VOCAB)
    payload = payload_of(namespace.payload, VOCAB, 0)
    ready = [[payload.encode(values) for values in shard] for shard in shards_of(items)]
    stored = list(entries(items))
    num_bytes = sum(block.nbytes for shard in ready for record in shard for block in record)
    times = []
    for _ in range(rounds + 1):
        cache = TeacherCache.create(folder / "cache", namespace)
        ours = cpu_seconds(partial(write_all, cache, stored))
        flat = cpu_seconds(lambda: write_flat(folder / "flat", ready))
        large = cpu_seconds(lambda: write_flat(folder / "large", ready, WRITE_BYTES))
        times.append((ours, flat, large))
        for name in ("cache", "flat", "large"):
            shutil.rmtree(folder / name)
    medians = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return [num_bytes / seconds / 1e6 for seconds in medians]


def speed_row(folder: Path, kind: str, items: list[np.ndarray], rounds: int) -> dict[str, Any]:
    """Return the row about one payload's speed."""
    ours, flat, large = speeds(folder, kind, items, rounds)
    wanted = kind == "f32"
    return row(
        f"writing, V = {VOCAB}, {kind}, checksums and index included",
        ours / flat,
        "of a raw flat write's MB per CPU second",
        f"at least {MIN_RATIO:g}",
        ours / flat >= MIN_RATIO,
        f"the same bytes, already encoded, in the same pieces, synced: {flat:.0f} MB per CPU "
        f"second, {large:.0f} through a buffer like ours; ours {ours:.0f}, encoding included",
        is_goal=wanted,
    )


def memory_row(folder: Path, count: int) -> dict[str, Any]:
    """Return the row about the memory of writing."""
    measured = in_child("benchmarks.teacher_cache_write", "--memory-of", folder, count)
    return row(
        f"writing {measured['mb']:.0f} MB, peak memory beside what was there before",
        measured["extra_mib"],
        "MiB",
        f"at most {MAX_EXTRA_MIB}",
        measured["extra_mib"] <= MAX_EXTRA_MIB,
        f"{measured['before_mib']:.0f} MiB with the libraries and the utterances loaded",
    )


def report_own_memory(folder: Path, count: int) -> None:
    """Write a cache and print what that took."""
    items = utterances(count)
    before = memory_mib("VmRSS")
    fill(folder, synthetic_namespace({"kind": "f32"}, VOCAB), entries(items))
    num_bytes = sum(values.nbytes for values in items)
    extra = memory_mib("VmHWM") - before
    print(json.dumps({"mb": num_bytes / 1e6, "before_mib": before, "extra_mib": extra}))


def verify_row(folder: Path, items: list[np.ndarray], rounds: int) -> dict[str, Any]:
    """Return the row about reading every record and comparing its checksum."""
    cache = fill(folder, synthetic_namespace({"kind": "f32"}, VOCAB), entries(items))
    num_bytes = sum(cache.data_bytes)
    seconds = statistics.median(cpu_seconds(lambda: verify(cache.folder)) for _ in range(rounds))
    speed = num_bytes / seconds / 1e9
    return row(
        f"verify, V = {VOCAB}, f32",
        speed,
        "GB per CPU second",
        f"at least {MIN_VERIFY_GB:g}",
        speed >= MIN_VERIFY_GB,
        f"{num_bytes / 1e6:.0f} MB in {len(cache):,} utterances, {len(cache.shards)} shards",
    )


def measure(folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    items = utterances(count)
    return [
        speed_row(folder, "f32", items, rounds),
        speed_row(folder, "u8", items, rounds),
        memory_row(folder / "memory", count),
        verify_row(folder / "verify", items, rounds),
    ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        folder, count = arguments.memory_of
        report_own_memory(Path(folder), int(count))
        return
    with tempfile.TemporaryDirectory() as place:
        rows = measure(Path(place), arguments.utterances, arguments.rounds)
    report("teacher_cache_write", rows)


if __name__ == "__main__":
    main()
