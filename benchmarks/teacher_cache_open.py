"""How long it takes to open a teacher cache, how much memory its index takes, and an idle pass.

    python -m benchmarks.teacher_cache_open [--utterances 20000 100000 1000000] [--rounds 9]

The caches are synthetic: real indexes of utterances of 5 seconds, over records of one byte. Opening
means `TeacherCache(folder)`, ready to look keys up, index files in the page cache. Each is measured
in a process of its own. The idle pass is the one of the stage `cache` where everything is cached
already, without the audit that follows it.
Times are CPU time. Rows go to benchmarks/results/teacher_cache_open.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import (
    FRAME_SHIFT_SECONDS,
    cpu_seconds,
    in_child,
    key,
    memory_mib,
    posteriors,
    report,
    row,
    synthetic_namespace,
)
from distillery.data.manifest import (
    MANIFEST_FILE,
    SUMMARY_FILE,
    SplitCounts,
    Summary,
    shard_name,
)
from distillery.data.text import Vocabulary
from distillery.files import write_json
from distillery.models.fingerprint import Fingerprint, digest_of
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.payload import payload_of
from distillery.teacher_cache.store import TeacherCache

UTTERANCE_SECONDS = 5
UTTERANCE_FRAMES = round(UTTERANCE_SECONDS / FRAME_SHIFT_SECONDS)
PER_HOUR = 3600 // UTTERANCE_SECONDS
COMPACTED_HOURS = 24
TEXT = "forty two people waited for the morning train"
BATCH = 32
U8_FRAME_BYTES = 33
PROJECTED_HOURS = 10_000
GOAL_UTTERANCES = 20_000
MAX_OPEN_MS = 5
IDLE_UTTERANCES = 100_000
MAX_IDLE_SECONDS = 2
MAX_IDLE_MIB = 300
RATE_HZ = 8000
ALPHABET = "abcdefghijklmnopqrstuvwxyz'"


def index_row(index: int, record: np.ndarray, frames: int, checksum: int) -> tuple[Any, ...]:
    """Return an utterance's values in the order of INDEX_SCHEMA; the writer sets the offset."""
    raw = bytes.fromhex(key(index))
    return raw, 0, len(record), frames, checksum, 0, frames // 2, 0.9, TEXT, [(TEXT, -3.0)]


def write_indexes(cache: TeacherCache, count: int, per_shard: int, record: np.ndarray) -> None:
    """Fill shards with the same record under many keys."""
    from isal.isal_zlib import crc32

    checksum = crc32(record)
    frames = UTTERANCE_FRAMES
    for start in range(0, count, per_shard):
        with cache.writing() as writer:
            for index in range(start, min(start + per_shard, count)):
                writer.copy(index_row(index, record, frames, checksum), record)


def opened(folder: Path, rounds: int) -> dict[str, float]:
    """Return what opening costs in this process."""
    anonymous, resident = memory_mib("RssAnon"), memory_mib("VmRSS")
    started = time.process_time()
    cache = TeacherCache(folder)
    first = time.process_time() - started
    anonymous, resident = memory_mib("RssAnon") - anonymous, memory_mib("VmRSS") - resident
    again = [cpu_seconds(lambda: TeacherCache(folder)) for _ in range(rounds)]
    keys = [key(index) for index in range(min(len(cache), GOAL_UTTERANCES))]
    keys = [keys[index] for index in np.random.default_rng(0).permutation(len(keys))]
    batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
    lookup = cpu_seconds(lambda: [cache.rows(batch) for batch in batches])
    return {
        "first_ms": 1e3 * first,
        "open_ms": 1e3 * statistics.median(again),
        "anonymous_mib": anonymous,
        "resident_mib": resident,
        "index_bytes": sum(item.num_bytes for item in cache.shards) / len(cache),
        "num_shards": len(cache.shards),
        "lookup_us": 1e6 * lookup / len(keys),
    }


def open_rows(folder: Path, count: int, hours: int, rounds: int) -> tuple[list[dict], dict]:
    """Return the rows about one cache, and the figures behind them."""
    cache = TeacherCache.create(folder, synthetic_namespace({"kind": "u8"}, 29))
    write_indexes(cache, count, hours * PER_HOUR, np.zeros(1, np.uint8))
    found = in_child("benchmarks.teacher_cache_open", "--open", cache.folder, "--rounds", rounds)
    what = f"{count:,} utterances in {found['num_shards']} shards of {hours} h"
    has_goal = count == GOAL_UTTERANCES and hours == 1
    return [
        row(
            f"opening {what}",
            found["open_ms"],
            "ms of CPU time",
            f"at most {MAX_OPEN_MS}" if has_goal else None,
            found["open_ms"] <= MAX_OPEN_MS if has_goal else None,
            f"every index checked; the first time in a process {found['first_ms']:.1f} ms; then "
            f"{found['lookup_us']:.1f} µs a key, {BATCH} keys at a time",
        ),
        row(
            f"memory of {what}, opened",
            found["resident_mib"],
            "MiB",
            None,
            None,
            f"{found['anonymous_mib']:.1f} of them the process's own, the rest mapped index files; "
            f"{found['index_bytes']:.0f} bytes of index an utterance with a text of {len(TEXT)} "
            "characters",
        ),
    ], {**found, "count": count, "hours": hours}


def projection(found: dict[str, Any]) -> dict[str, Any]:
    """Return the row about 10,000 hours, from the costs of one utterance."""
    factor = PROJECTED_HOURS * PER_HOUR / found["count"]
    data = PROJECTED_HOURS * PER_HOUR * UTTERANCE_FRAMES * U8_FRAME_BYTES
    index = found["index_bytes"] * found["count"] * factor
    return row(
        f"projection: {PROJECTED_HOURS:,} hours, V = 29, u8, shards of {found['hours']} h",
        (data + index) / 1e9,
        "GB on disk",
        None,
        None,
        f"scaled up from {found['count']:,} utterances, not measured: {data / 1e9:.1f} GB of data, "
        f"{index / 1e9:.2f} GB of index, {PROJECTED_HOURS / found['hours']:,.0f} shards, opened in "
        f"{found['open_ms'] * factor / 1e3:.1f} s with {found['anonymous_mib'] * factor:,.0f} MiB "
        f"of own memory and {found['resident_mib'] * factor:,.0f} MiB in all",
    )


def prepare_idle(root: Path, count: int) -> None:
    """Make a workspace in which every utterance is cached; audio and weights are not there."""
    places = Places.in_workspace(root)
    for folder in (places.data, places.teacher):
        folder.mkdir(parents=True)
    samples = UTTERANCE_SECONDS * RATE_HZ
    pd.DataFrame(
        {
            "utterance_id": [f"u{index:07d}" for index in range(count)],
            "speaker": "s",
            "split": "train",
            "text": TEXT,
            "text_original": TEXT,
            "source_path": [f"speech/{index:07d}.flac" for index in range(count)],
            "shard": 0,
            "offset_samples": np.arange(count) * samples,
            "num_samples": samples,
            "duration_seconds": float(UTTERANCE_SECONDS),
            "audio_key": [key(index) for index in range(count)],
        }
    ).to_parquet(places.data / MANIFEST_FILE)
    counts = SplitCounts(count, count, 0, 1, count * UTTERANCE_SECONDS / 3600)
    summary = Summary("made up", RATE_HZ, "none", ALPHABET, {}, {"train": counts}, 0, {})
    write_json(places.data / SUMMARY_FILE, asdict(summary))
    with open(places.data / shard_name(0), "wb") as file:
        file.truncate(2 * samples * count)  # a hole: it takes no room
    vocabulary = Vocabulary.from_alphabet(ALPHABET)
    vocabulary.save(places.teacher / "tokens.txt")
    features = {"hop_seconds": FRAME_SHIFT_SECONDS / 4}
    fields = {
        "weights": "",
        "tokens": vocabulary.digest,
        "architecture": {"time_reduction": 4},
        "preprocessing": {"features": features, "sample_rate_hz": RATE_HZ},
        "layers": {},
        "frame_shift_seconds": FRAME_SHIFT_SECONDS,
        "gives_frames": True,
    }
    Fingerprint(**fields, fingerprint=digest_of(fields)).save(places.teacher)
    namespace = expected_namespace(places, CacheParams())
    cache = TeacherCache.create(places.cache, namespace)
    log_probs = posteriors(np.random.default_rng(0), UTTERANCE_FRAMES, len(vocabulary))
    blocks = payload_of(namespace.payload, len(vocabulary), 0).encode(log_probs)
    record = np.concatenate([block.reshape(-1).view(np.uint8) for block in blocks])
    write_indexes(cache, count, PER_HOUR, record)


def load_teacher(folder: Path, device: str) -> Any:
    """Load the teacher, and PyTorch with it: a pass with nothing to do asks for neither."""
    from distillery.teachers import kinds

    return kinds.load_teacher(folder, device)


def run_idle(root: Path) -> dict[str, Any]:
    """Run the stage's work and return what this whole process has cost."""
    started = time.process_time()
    report = fill_cache(Places.in_workspace(root), load_teacher, CacheParams())
    return {
        "hits": report.num_hits,
        "forwards": report.num_teacher_forwards,
        "torch": "torch" in sys.modules,
        "call_seconds": time.process_time() - started,
        "cpu_seconds": time.process_time(),
        "peak_mib": memory_mib("VmHWM"),
    }


def idle_rows(folder: Path, count: int, rounds: int) -> list[dict]:
    """Return the rows about a pass with nothing to do."""
    prepare_idle(folder, count)
    runs = [in_child("benchmarks.teacher_cache_open", "--idle", folder) for _ in range(rounds)]
    assert all(run["hits"] == count and run["forwards"] == 0 for run in runs)
    seconds, call, peak = (
        statistics.median(run[name] for run in runs)
        for name in ("cpu_seconds", "call_seconds", "peak_mib")
    )
    no_torch = not any(run["torch"] for run in runs)
    name = f"a pass with nothing to do, {count:,} cached utterances"
    without = "PyTorch is not imported" if no_torch else "PYTORCH IS IMPORTED"
    return [
        row(
            name,
            seconds,
            "s of CPU time of the whole process",
            f"at most {MAX_IDLE_SECONDS}",
            seconds <= MAX_IDLE_SECONDS and no_torch,
            f"interpreter and imports included, {call:.2f} s without them; {without}",
        ),
        row(
            f"{name}, peak memory",
            peak,
            "MiB",
            f"at most {MAX_IDLE_MIB}",
            peak <= MAX_IDLE_MIB,
            "the whole process",
        ),
    ]


def cases(counts: list[int]) -> Iterator[tuple[int, int]]:
    """Yield utterances and hours a shard: hourly shards for all, compacted ones for many."""
    for count in counts:
        yield count, 1
        if count > GOAL_UTTERANCES:
            yield count, COMPACTED_HOURS


def measure(folder: Path, counts: list[int], idle: int, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    rows, largest = [], {}
    for count, hours in cases(counts):
        found, figures = open_rows(folder / f"{count}-{hours}", count, hours, rounds)
        rows += found
        largest[hours] = figures
    return [
        *rows,
        *(projection(figures) for figures in largest.values()),
        *idle_rows(folder / "idle", idle, min(rounds, 3)),
    ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, nargs="+", default=[20_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(opened(arguments.open, arguments.rounds)))
        return
    if arguments.idle:
        print(json.dumps(run_idle(arguments.idle)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.utterances, IDLE_UTTERANCES, arguments.rounds)
    report("teacher_cache_open", rows)


if __name__ == "__main__":
    main()
