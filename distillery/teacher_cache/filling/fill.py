"""The stage `cache` without the teacher: what is missing, in which batches, what it cost.

Imports no model code, so that a pass with nothing to do costs no more than reading indexes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery.data.copies import training_rows
from distillery.data.manifest import MANIFEST_FILE, PreparedData
from distillery.files import digest_of_file
from distillery.params.whole import CacheParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import remove_leftovers
from distillery.teacher_cache.store import TeacherCache

CACHE_REPORT_FILE = "reports/cache.json"
SHARDS_PER_PARTITION = 4
READ_SAMPLE, READ_BATCH = 512, 32  # utterances
PARTITIONS_PER_WORKER = 4  # so that a bar moves, and a slow worker keeps nobody waiting for long


@dataclass(frozen=True)
class Partition:
    """A share of a teacher pass: one worker's job. Plain values, so it travels anywhere."""

    places: Places
    namespace: str
    """Name of the namespace's folder."""
    manifest_sha256: str
    """Of the manifest that the rows below count in."""
    batches: Sequence[np.ndarray]
    """Positions in the training rows, copies included; every array is one batch."""
    params: CacheParams


@dataclass(frozen=True)
class PartitionReport:
    """What one partition cost."""

    num_utterances: int = 0
    teacher_seconds: float = 0.0
    """Time inside the teacher, features included."""


@dataclass(frozen=True)
class PassReport:
    """What one run of the stage did."""

    namespace: str
    num_utterances: int
    num_hits: int
    num_teacher_forwards: int
    audio_seconds: float
    """Of the utterances that met the teacher."""
    hit_audio_seconds: float
    teacher_seconds: float
    """Spent in the teacher, by all workers together."""
    wall_seconds: float
    """From the first utterance to the last shard on disk."""
    read_seconds: float
    """Reading all cached targets of the training split once, as one epoch does."""
    teacher_seconds_per_audio_second: float | None
    """Of this pass, or of the last one that ran this teacher; null when never measured."""
    manifest_sha256: str
    """Content of the whole cache."""

    @property
    def seconds_saved(self) -> float | None:
        """Teacher time that hits made unnecessary in this pass."""
        rate = self.teacher_seconds_per_audio_second
        return None if rate is None else rate * self.hit_audio_seconds

    @property
    def break_even_epochs(self) -> int | None:
        """Epochs x students from which on caching beats running the teacher in every epoch.

        With E of them the online teacher costs E x t, the cache t + write + E x r: t for one pass
        of the teacher, r for reading the cache once. Null when that was never measured, or when
        reading costs more than the teacher.
        """
        rate = self.teacher_seconds_per_audio_second
        audio = self.audio_seconds + self.hit_audio_seconds
        if rate is None or audio == 0 or rate * audio <= self.read_seconds:
            return None
        overhead = max(1.0, self.wall_seconds / self.teacher_seconds) if self.teacher_seconds else 1
        return math.floor(overhead * rate * audio / (rate * audio - self.read_seconds)) + 1

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            **asdict(self),
            "seconds_saved": self.seconds_saved,
            "break_even_epochs": self.break_even_epochs,
        }


def fill_cache(
    places: Places,
    params: CacheParams,
    former: dict[str, Any] | None = None,
    *,
    only: Container[str] | None = None,
) -> PassReport:
    """Run the teacher over the training utterances, copies included, that the cache lacks.

    A killed run loses the open shards at most; the next run does what is missing.

    Args:
        places: prepared data, teacher and cache.
        params: settings of the stage.
        former: the report of the pass before, for what the teacher costs when it need not run.
        only: audio keys, of copies too, that are wanted; None: all.

    Raises:
        CacheError: the cache is damaged or cannot be written.
        ModelError: the teacher is damaged, or made for another sample rate.
    """
    data = PreparedData.open(places.data)
    namespace = expected_namespace(places, params)
    cache = TeacherCache.create(places.cache, namespace)
    rows = training_rows(data, params.speed_factors)
    if only is not None:
        rows = rows[[key in only for key in rows["audio_key"]]]  # the index still says where
    missing = set(cache.missing(rows["audio_key"]))
    is_hit = ~rows["audio_key"].isin(missing)
    todo = rows[~is_hit].drop_duplicates("audio_key")
    started = time.perf_counter()
    reports = _run(places, cache, data, todo, params) if len(todo) else []
    wall = time.perf_counter() - started
    cache.reload()
    cache.require(rows["audio_key"])
    cache.make_current()
    seconds = sum(report.teacher_seconds for report in reports)
    audio = float(todo["duration_seconds"].sum())
    return PassReport(
        namespace.folder_name,
        num_utterances=len(rows),
        num_hits=int(is_hit.sum()),
        num_teacher_forwards=sum(report.num_utterances for report in reports),
        audio_seconds=audio,
        hit_audio_seconds=float(rows.loc[is_hit, "duration_seconds"].sum()),
        teacher_seconds=seconds,
        wall_seconds=wall if reports else 0.0,
        read_seconds=_read_seconds(cache, rows),
        teacher_seconds_per_audio_second=(
            seconds / audio if audio else _former_rate(former, namespace)
        ),
        manifest_sha256=cache.manifest_digest,
    )


def _former_rate(former: dict[str, Any] | None, namespace: Namespace) -> float | None:
    if former is None or former.get("namespace") != namespace.folder_name:
        return None
    rate = former.get("teacher_seconds_per_audio_second")
    return None if rate is None else float(rate)


def _read_seconds(cache: TeacherCache, rows: pd.DataFrame) -> float:
    """Return the time to read all targets once, measured on at most so many utterances."""
    sample = cache.rows(list(rows["audio_key"].iloc[:READ_SAMPLE]))
    started = time.perf_counter()
    for start in range(0, len(sample), READ_BATCH):
        batch = sample[start : start + READ_BATCH]
        if cache.namespace.payload["kind"] != "none":
            cache.targets(batch)
    return (time.perf_counter() - started) * len(rows) / max(1, len(sample))


def plan_batches(rows: pd.DataFrame, batch_seconds: float) -> list[np.ndarray]:
    """Return batches of row positions: ascending in length, padded audio bounded.

    Args:
        rows: manifest rows; the index of the frame says their positions.
        batch_seconds: padded audio in one batch; a longer utterance gets a batch of its own.
    """
    ordered = rows.sort_values(["duration_seconds", "audio_key"])
    durations, positions = ordered["duration_seconds"].to_numpy(), ordered.index.to_numpy()
    starts = [0]
    for position, duration in enumerate(durations):
        size = position - starts[-1] + 1
        if size > 1 and size * duration > batch_seconds:
            starts.append(position)
    return np.split(positions, starts[1:]) if len(positions) else []


def partition_batches(
    batches: Iterable[np.ndarray], keys: Sequence[str], num_partitions: int
) -> list[list[np.ndarray]]:
    """Share batches out by the hash that the key of their first utterance is.

    Batches stay whole, so what the teacher says about an utterance does not depend on how many
    partitions there are.

    Args:
        batches: manifest positions.
        keys: audio keys of the whole manifest.
        num_partitions: how many shares; empty ones are left out.
    """
    shares: list[list[np.ndarray]] = [[] for _ in range(num_partitions)]
    for batch in batches:
        head = int(keys[batch[0]][:8], 16)  # 32 of the hash's bits
        shares[head * num_partitions >> 32].append(batch)
    return [share for share in shares if share]


def _run(
    places: Places,
    cache: TeacherCache,
    data: PreparedData,
    todo: pd.DataFrame,
    params: CacheParams,
) -> list[PartitionReport]:
    from distillery.teacher_cache.filling.workers import Workers  # brings PyTorch

    remove_leftovers(cache.folder)
    train = training_rows(data, params.speed_factors)
    digest = digest_of_file(places.data / MANIFEST_FILE)
    batches = plan_batches(todo, params.batch_seconds)
    with (
        Workers(params.workers) as workers,
        tqdm(total=len(todo), desc="teacher pass", unit="utt") as bar,
    ):
        seconds = float(todo["duration_seconds"].sum())
        count = max(
            1,
            math.ceil(seconds / (SHARDS_PER_PARTITION * params.shard_seconds)),
            PARTITIONS_PER_WORKER * workers.count,
        )
        shares = partition_batches(batches, list(train["audio_key"]), count)
        partitions = [
            Partition(places, cache.folder.name, digest, share, params) for share in shares
        ]
        reports = list(workers.run(partitions, bar.update))
    remove_leftovers(cache.folder)  # of workers that died on the way
    return reports


def cut_into_shards(
    batches: Sequence[np.ndarray], durations: np.ndarray, shard_seconds: float
) -> Iterator[Sequence[np.ndarray]]:
    """Yield runs of batches of about `shard_seconds` of audio, one at least.

    Args:
        batches: row positions.
        durations: of all rows, in seconds.
        shard_seconds: audio in one shard.
    """
    start, total = 0, 0.0
    for position, batch in enumerate(batches):
        seconds = float(durations[batch].sum())
        if position > start and total + seconds > shard_seconds:
            yield batches[start:position]
            start, total = position, 0.0
        total += seconds
    if start < len(batches):
        yield batches[start:]


def read_report(path: Path) -> dict[str, Any] | None:
    """Return an earlier pass's report, or None when there is none to be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def describe(report: PassReport) -> list[str]:
    """Return what a pass did and whether it paid, in lines for a person."""
    lines = [
        f"teacher cache {report.namespace}: {report.num_utterances} utterances, "
        f"{report.num_hits} already there, {report.num_teacher_forwards} through the teacher "
        f"({report.audio_seconds:.0f} s of audio in {report.teacher_seconds:.1f} s)"
    ]
    if report.seconds_saved:
        lines.append(f"hits saved {report.seconds_saved:.1f} s of the teacher's time")
    if report.break_even_epochs is not None:
        lines.append(
            f"break-even: from {report.break_even_epochs} epochs x students on, caching is "
            f"cheaper than the teacher in every epoch; reading all of it takes "
            f"{report.read_seconds:.2f} s"
        )
    return lines
