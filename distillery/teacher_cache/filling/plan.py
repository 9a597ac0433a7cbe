"""How a teacher pass is cut up: batches, the partitions of them that workers take, and shards."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from distillery.data.copies import HEARD_COLUMNS
from distillery.data.lengths import in_batches_by_length
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places

if TYPE_CHECKING:  # planning needs no model code
    from distillery.models.base import LoadTeacher

SHARDS_PER_PARTITION = 4
PARTITIONS_PER_WORKER = 4  # so that a bar moves, and a slow worker keeps nobody waiting for long


@dataclass(frozen=True)
class Partition:
    """A share of a teacher pass: one worker's job. Plain values, so it travels anywhere.

    It brings its rows along, so what it costs a worker does not depend on how many others there
    are.
    """

    places: Places
    namespace: str
    """Name of the namespace's folder."""
    rows: pd.DataFrame
    """What of the manifest says where its audio lies, columns of HEARD_COLUMNS, batch by batch."""
    batches: Sequence[np.ndarray]
    """Positions in these rows; every array is one batch."""
    audio_seconds: float
    """Of all batches."""
    params: CacheParams
    load: LoadTeacher
    """Loads the teacher, where the partition runs."""
    of_pass: str
    """Name of the file that says that the pass is on."""

    @classmethod
    def of(
        cls,
        places: Places,
        namespace: str,
        rows: pd.DataFrame,
        batches: Sequence[np.ndarray],
        params: CacheParams,
        load: LoadTeacher,
        of_pass: str,
    ) -> Self:
        """Return a share with the rows that it needs, counted anew.

        Args:
            places: prepared data, teacher and cache.
            namespace: name of the namespace's folder.
            rows: of the manifest, copies included.
            batches: positions in these rows.
            params: settings of the stage.
            load: loads the teacher.
            of_pass: name of the pass's file.
        """
        columns = [name for name in HEARD_COLUMNS if name in rows]
        own = rows[columns].take(np.concatenate(batches)).reset_index(drop=True)
        ends = np.cumsum([len(batch) for batch in batches])
        counted = np.split(np.arange(len(own)), ends[:-1])
        seconds = float(own["duration_seconds"].sum())
        return cls(places, namespace, own, counted, seconds, params, load, of_pass)

    @property
    def begun_file(self) -> str:
        """Name of the file that says that somebody began with it."""
        names = [self.of_pass, *self.rows["audio_key"].iloc[self.batches[0]]]
        return f".begun-{hashlib.sha256(''.join(names).encode()).hexdigest()[:16]}.tmp"


@dataclass(frozen=True)
class PartitionReport:
    """What one partition cost."""

    num_utterances: int = 0
    """That the teacher heard, again where a worker died with them."""
    teacher_seconds: float = 0.0
    """Time inside the teacher, features included."""
    languages: Mapping[str, int] = field(default_factory=dict)
    """Utterances by language, where the teacher detects it."""

    def __add__(self, other: Self) -> Self:
        """Return what two cost together."""
        return replace(
            self,
            num_utterances=self.num_utterances + other.num_utterances,
            teacher_seconds=self.teacher_seconds + other.teacher_seconds,
            languages=dict(Counter(self.languages) + Counter(other.languages)),
        )


def plan_batches(rows: pd.DataFrame, batch_seconds: float) -> list[np.ndarray]:
    """Return batches of row positions: ascending in length, padded audio bounded.

    Args:
        rows: manifest rows; the index of the frame says their positions.
        batch_seconds: padded audio in one batch; a longer utterance gets a batch of its own.
    """
    ordered = rows[["duration_seconds", "audio_key"]].sort_values(["duration_seconds", "audio_key"])
    durations, positions = ordered["duration_seconds"].to_numpy(), ordered.index.to_numpy()
    batches = in_batches_by_length(range(len(ordered)), durations, max_padded=batch_seconds)
    return [positions[batch] for batch in batches]


def partition_batches(
    batches: Iterable[np.ndarray], heads: Iterable[str], num_partitions: int
) -> list[list[np.ndarray]]:
    """Share batches out by the hash that the key of their first utterance is.

    Batches stay whole, so what the teacher says about an utterance does not depend on how many
    partitions there are.

    Args:
        batches: manifest positions.
        heads: audio key of the first utterance of each.
        num_partitions: how many shares; empty ones are left out.
    """
    shares: list[list[np.ndarray]] = [[] for _ in range(num_partitions)]
    for batch, key in zip(batches, heads, strict=True):
        head = int(key[:8], 16)  # 32 of the hash's bits
        shares[head * num_partitions >> 32].append(batch)
    return [share for share in shares if share]


@dataclass
class OpenShard:
    """How much an open shard holds, and since when, which tells when to close it."""

    shard_seconds: float
    """Audio in one shard, about."""
    lasting_seconds: float
    """Time after which it is closed, however little it holds."""
    clock: Callable[[], float] = time.monotonic
    """Tells the time, in seconds."""
    audio_seconds: float = 0.0
    """What it holds."""

    def __post_init__(self) -> None:
        """Begin to count."""
        self._opened = self._last = self.clock()
        self._longest = 0.0

    def add(self, audio_seconds: float) -> None:
        """Note that a batch was put into it."""
        now = self.clock()
        self._longest = max(self._longest, now - self._last)
        self._last, self.audio_seconds = now, self.audio_seconds + audio_seconds

    def takes(self, audio_seconds: float) -> bool:
        """Return whether a further batch still fits; it may take as long as the longest so far."""
        if self.audio_seconds + audio_seconds > self.shard_seconds:
            return False
        return self.clock() + self._longest - self._opened <= self.lasting_seconds
