"""The teacher pass: every utterance that is not cached yet goes through the teacher once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from distillery.decoding import confidence, greedy_text
from distillery.manifest import PreparedData
from distillery.params import CacheParams
from distillery.recogniser import Recogniser
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache


@dataclass(frozen=True)
class PassReport:
    """What one run of the stage did."""

    namespace: str
    num_utterances: int
    num_hits: int
    num_teacher_forwards: int
    teacher_seconds: float
    audio_seconds: float
    manifest_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def namespace_of(
    teacher: Recogniser, fingerprint: dict[str, Any], params: CacheParams
) -> Namespace:
    """Return the namespace that a teacher's outputs belong to."""
    return Namespace(
        fingerprint,
        teacher.vocabulary.tokens,
        teacher.frame_shift_seconds,
        params.log_probs,
    )


def fill_cache(
    cache: TeacherCache, teacher: Recogniser, data: PreparedData, params: CacheParams
) -> PassReport:
    """Run the teacher over the training utterances that the cache lacks.

    A killed run loses the open shard at most; the next run does what is missing.
    """
    torch.set_num_threads(params.num_threads)
    rows = data.split("train")
    todo = set(cache.missing(rows["audio_key"]))
    missing = rows[rows["audio_key"].isin(todo)].drop_duplicates("audio_key")
    missing = missing.sort_values(["num_samples", "audio_key"])
    seconds = 0.0
    with tqdm(total=len(missing), desc="teacher pass", unit="utt") as bar:
        for shard in _pieces(missing, params.shard_seconds, padded=False):
            with cache.writing() as writer:
                for batch in _pieces(shard, params.batch_seconds, padded=True):
                    started = time.perf_counter()
                    outputs = teacher.log_probs([data.waveform(r) for r in batch.itertuples()])
                    seconds += time.perf_counter() - started
                    for key, output in zip(batch["audio_key"], outputs, strict=True):
                        text = greedy_text(output, teacher.vocabulary)
                        writer.add(Entry(key, output, text, confidence(output)))
                    bar.update(len(batch))
    return PassReport(
        cache.namespace.folder_name,
        num_utterances=len(rows),
        num_hits=int((~rows["audio_key"].isin(todo)).sum()),
        num_teacher_forwards=len(missing),
        teacher_seconds=seconds,
        audio_seconds=float(missing["duration_seconds"].sum()),
        manifest_sha256=cache.manifest_digest,
    )


def _pieces(rows: pd.DataFrame, max_seconds: float, *, padded: bool) -> Iterator[pd.DataFrame]:
    """Cut rows, ascending in length, into runs of at most `max_seconds`.

    Args:
        rows: manifest rows.
        max_seconds: audio in one piece; a longer utterance gets a piece of its own.
        padded: count every utterance at the length of the longest.
    """
    start, total = 0, 0.0
    for position, duration in enumerate(rows["duration_seconds"]):
        total = (position - start + 1) * duration if padded else total + duration
        if position > start and total > max_seconds:
            yield rows.iloc[start:position]
            start, total = position, duration
    if start < len(rows):
        yield rows.iloc[start:]
