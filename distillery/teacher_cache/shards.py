"""One immutable shard: raw frames in a .bin file, its index in a .parquet file beside it."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from distillery.files import replace_file
from distillery.teacher_cache.payload import LogProbType, encode

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # audio_key of the utterance
        ("offset_bytes", pa.int64()),  # first byte in the .bin file
        ("num_frames", pa.int32()),
        ("crc32", pa.uint32()),  # of the utterance's bytes
        ("greedy_text", pa.string()),
        ("confidence", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Entry:
    """What the teacher said about one recording."""

    key: str
    log_probs: np.ndarray  # (frames, vocab)
    greedy_text: str
    confidence: float


class ShardWriter:
    """Writes one shard; nothing of it exists for readers before `finish`."""

    def __init__(self, folder: Path, kind: LogProbType) -> None:
        self.folder = folder
        self.kind = kind
        self._rows: list[dict[str, Any]] = []
        self._temporary = folder / f".open-{os.getpid()}.tmp"
        self._file = open(self._temporary, "wb")  # noqa: SIM115  # lives as long as the writer

    def add(self, entry: Entry) -> None:
        """Append one utterance."""
        payload = encode(entry.log_probs, self.kind).tobytes()
        self._rows.append(
            {
                "key": entry.key,
                "offset_bytes": self._file.tell(),
                "num_frames": len(entry.log_probs),
                "crc32": zlib.crc32(payload),
                "greedy_text": entry.greedy_text,
                "confidence": entry.confidence,
            }
        )
        self._file.write(payload)

    def finish(self) -> str | None:
        """Make the shard visible and return its name, or None when it is empty."""
        if not self._rows:
            self.abandon()
            return None
        name = shard_name([row["key"] for row in self._rows])
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        replace_file(self._temporary, self.folder / f"{name}.bin")
        index = self.folder / f".{name}.parquet.tmp"
        pq.write_table(pa.Table.from_pylist(self._rows, INDEX_SCHEMA), index)
        replace_file(index, self.folder / f"{name}.parquet")
        return name

    def abandon(self) -> None:
        """Drop what was written so far."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def shard_name(keys: Sequence[str]) -> str:
    """Return a shard's name: a hash of its keys, so equal content has an equal name."""
    return f"shard-{hashlib.sha256(''.join(keys).encode()).hexdigest()[:16]}"


def read_index(path: Path) -> pd.DataFrame:
    """Return a shard's index, one row per utterance."""
    frame: pd.DataFrame = pq.read_table(path, schema=INDEX_SCHEMA).to_pandas()
    return frame
