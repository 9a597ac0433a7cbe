"""How a teacher pass is cut up: batches, the partitions of them that workers take, and shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from distillery.data.lengths import in_batches_by_length
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places

if TYPE_CHECKING:  # planning needs no model code
    from distillery.models.base import LoadTeacher

SHARDS_PER_PARTITION = 4
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
    load: LoadTeacher
    """Loads the teacher, where the partition runs."""


@dataclass(frozen=True)
class PartitionReport:
    """What one partition cost."""

    num_utterances: int = 0
    teacher_seconds: float = 0.0
    """Time inside the teacher, features included."""


def plan_batches(rows: pd.DataFrame, batch_seconds: float) -> list[np.ndarray]:
    """Return batches of row positions: ascending in length, padded audio bounded.

    Args:
        rows: manifest rows; the index of the frame says their positions.
        batch_seconds: padded audio in one batch; a longer utterance gets a batch of its own.
    """
    ordered = rows.sort_values(["duration_seconds", "audio_key"])
    durations, positions = ordered["duration_seconds"].to_numpy(), ordered.index.to_numpy()
    batches = in_batches_by_length(range(len(ordered)), durations, max_padded=batch_seconds)
    return [positions[batch] for batch in batches]


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
