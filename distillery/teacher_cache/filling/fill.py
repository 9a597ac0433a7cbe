"""The stage `cache` without the teacher: what is missing, in which batches, what it cost.

Imports no model code: looking at what a pass would do costs no more than reading indexes.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from distillery.data.copies import HEARD_COLUMNS, training_rows
from distillery.data.manifest import DESCRIPTIONS, PreparedData
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.filling.plan import (
    PARTITIONS_PER_WORKER,
    SHARDS_PER_PARTITION,
    Partition,
    PartitionReport,
    partition_batches,
    plan_batches,
)
from distillery.teacher_cache.filling.progress import AudioBar
from distillery.teacher_cache.filling.reach import planned_with
from distillery.teacher_cache.filling.report import PassReport, former_rate
from distillery.teacher_cache.filling.turns import begin_pass, end_passes
from distillery.teacher_cache.shards import remove_leftovers
from distillery.teacher_cache.stopping import stop_held_back
from distillery.teacher_cache.store import TeacherCache

if TYPE_CHECKING:  # a pass with nothing to do needs no model code
    from distillery.models.base import LoadTeacher

READ_SAMPLE, READ_BATCH = 512, 32  # utterances


def fill_cache(
    places: Places,
    load: LoadTeacher,
    params: CacheParams,
    former: PassReport | None = None,
    *,
    only: Container[str] | None = None,
) -> PassReport:
    """Run the teacher over the training utterances, copies included, that the cache lacks.

    A killed run loses the open shards at most, one that is told to stop nothing; the next run does
    what is missing. From here on workers of an earlier run publish nothing more.

    Args:
        places: prepared data, teacher and cache.
        load: loads the teacher, where something is missing.
        params: settings of the stage.
        former: the report of the pass before, for what the teacher costs when it need not run.
        only: audio keys, of copies too, that are wanted; None: all.

    Raises:
        CacheError: the cache is damaged or cannot be written.
        ModelError: the teacher is damaged, or made for another sample rate.
    """
    rows = _rows(places, params)
    namespace = expected_namespace(places, params)
    end_passes(places.cache / namespace.folder_name)  # before a look at what is missing
    cache = TeacherCache.create(places.cache, namespace)
    if only is not None:
        rows = rows[[key in only for key in rows["audio_key"]]]  # the index still says where
    is_hit = cache.holds(rows["audio_key"])
    todo = rows[~is_hit].drop_duplicates("audio_key").reset_index(drop=True)
    started = time.perf_counter()
    reports = _run(places, load, cache, todo, params) if len(todo) else []
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
            seconds / audio if audio else former_rate(former, namespace)
        ),
        manifest_sha256=cache.manifest_digest,
        languages=dict(sum((Counter(report.languages) for report in reports), Counter[str]())),
    )


def _rows(places: Places, params: CacheParams) -> pd.DataFrame:
    """Return what is to be heard; of the manifest, which is large, nothing else stays."""
    data = PreparedData.open(places.data, without=DESCRIPTIONS)
    return training_rows(data, params.speed_factors, ("utterance_id", *HEARD_COLUMNS))


def _read_seconds(cache: TeacherCache, rows: pd.DataFrame) -> float:
    """Return the time to read all targets once, measured on at most so many utterances."""
    sample = cache.rows(list(rows["audio_key"].iloc[:READ_SAMPLE]))
    started = time.perf_counter()
    for start in range(0, len(sample), READ_BATCH):
        batch = sample[start : start + READ_BATCH]
        if cache.namespace.payload["kind"] != "none":
            cache.targets(batch)
    return (time.perf_counter() - started) * len(rows) / max(1, len(sample))


def _run(
    places: Places,
    load: LoadTeacher,
    cache: TeacherCache,
    todo: pd.DataFrame,
    params: CacheParams,
) -> list[PartitionReport]:
    from distillery.teacher_cache.filling.workers import Workers  # brings PyTorch

    remove_leftovers(cache.folder)
    batches = plan_batches(todo, params.batch_seconds)
    seconds = float(todo["duration_seconds"].sum())
    with (
        _pass_over(places, cache.folder) as of_pass,
        Workers(params.workers, params.device) as workers,
    ):
        workers.check(places, cache.folder, of_pass)
        count = max(
            1,
            math.ceil(seconds / (SHARDS_PER_PARTITION * params.shard_seconds)),
            PARTITIONS_PER_WORKER * workers.count,
        )
        heads = todo["audio_key"].take([batch[0] for batch in batches])
        shares = partition_batches(batches, heads, count)
        partitions = [
            Partition.of(places, cache.folder.name, todo, share, params, load, of_pass)
            for share in shares
        ]
        with AudioBar(seconds, "teacher pass") as bar:
            return list(workers.run(partitions, bar.add_seconds))


@contextmanager
def _pass_over(places: Places, folder: Path) -> Iterator[str]:
    """Yield the name of the file that says that a pass is on.

    At the end, however it comes, remove it, what says that partitions were begun, and what workers
    that died left.
    """
    of_pass = begin_pass(folder, planned_with(places))
    try:
        yield of_pass
    finally:
        with stop_held_back():
            end_passes(folder)
            remove_leftovers(folder)
