"""What a namespace holds, from its indexes alone: utterances, hours, bytes, blank frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillery.errors import CacheError
from distillery.teacher_cache.store import TeacherCache
from distillery.teacher_cache.upkeep.records import folder_bytes


@dataclass(frozen=True)
class Statistics:
    """What a namespace holds."""

    namespace: str
    num_bytes: int
    """Of all files: data, indexes, description, leftovers."""
    damaged: str | None = None
    """Why it cannot be opened; the fields below are empty then."""
    data_bytes: int = 0
    index_bytes: int = 0
    num_utterances: int = 0
    """Each key once."""
    num_frames: int = 0
    num_blank_frames: int = 0
    num_shards: int = 0
    audio_seconds: float = 0.0
    """Frames times frame shift."""
    payload: str = ""
    compute_dtype: str = ""
    teacher: str = ""
    """Its fingerprint."""


def statistics(folder: Path) -> Statistics:
    """Return what a namespace holds, or why it cannot be opened."""
    size = folder_bytes(folder)
    try:
        cache = TeacherCache(folder)
    except CacheError as error:
        return Statistics(folder.name, size, damaged=str(error))
    rows = cache.all_rows
    blanks = [index.column("num_blank_frames") for index in cache.shards]
    num_frames = int(cache.num_frames(rows).sum())
    return Statistics(
        folder.name,
        size,
        data_bytes=sum(cache.data_bytes),
        index_bytes=sum(index.num_bytes for index in cache.shards),
        num_utterances=len(cache),
        num_frames=num_frames,
        num_blank_frames=int(np.concatenate(blanks)[rows].sum()) if blanks else 0,
        num_shards=len(cache.shards),
        audio_seconds=num_frames * cache.namespace.frame_shift_seconds,
        payload=str(cache.namespace.payload["kind"]),
        compute_dtype=cache.namespace.compute_dtype,
        teacher=str(cache.namespace.teacher.get("fingerprint", "")),
    )
