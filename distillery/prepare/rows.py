"""What is kept of a corpus, one row an utterance, until manifest.parquet is written.

A million rows as objects of Python's would take half a gigabyte more than in columns.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import pyarrow as pa

from distillery.data.manifest import COLUMNS, EXPECTED

SCHEMA = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("text_original", pa.string()),
        pa.field("source_path", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset_samples", pa.int64(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("duration_seconds", pa.float64(), nullable=False),
        pa.field("audio_key", pa.string(), nullable=False),
        pa.field("level_dbfs", pa.float64(), nullable=False),
        pa.field("clipped_fraction", pa.float64(), nullable=False),
        pa.field("dc_offset", pa.float64(), nullable=False),
        pa.field("silent_fraction", pa.float64(), nullable=False),
    ]
)
"""Of manifest.parquet."""
EXPECTED_FIELD = pa.field(EXPECTED, pa.string())
"""Of it, where the corpus says what phrases its recordings hold."""


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance that is kept: a row of manifest.parquet."""

    utterance_id: str
    speaker: str | None
    split: str
    text: str | None
    """Normalised; None: unlabelled."""
    text_original: str | None
    """As published."""
    source_path: str
    """Relative to the corpus."""
    shard: int
    """Index of the file that holds its audio."""
    offset_samples: int
    """Of its first sample in there."""
    num_samples: int
    duration_seconds: float
    audio_key: str
    """SHA-256 of its int16 samples."""
    level_dbfs: float
    """RMS in decibels below full scale."""
    clipped_fraction: float
    """Share of the samples at either end of their range."""
    dc_offset: float
    """Mean of the samples; full scale is 1."""
    silent_fraction: float
    """Share of the frames of 20 ms below −65 dB."""
    expected: str | None = None
    """Phrases that are spoken, see `distillery.data.manifest.EXPECTED`; None: none are known."""


assert (*SCHEMA.names, EXPECTED) == (*COLUMNS, EXPECTED) == tuple(f.name for f in fields(Row))

CODES = {
    "shard": "i",
    "offset_samples": "q",
    "num_samples": "q",
    "duration_seconds": "d",
    "level_dbfs": "d",
    "clipped_fraction": "d",
    "dc_offset": "d",
    "silent_fraction": "d",
}
"""Of the columns that hold numbers, as the module `array` has them; others hold references."""
KEY = "audio_key"
KEY_BYTES = 32


class Rows(Sequence[Row]):
    """Rows in columns: read like a list of `Row`, which are made when they are asked for."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """Hold rows."""
        self._columns: dict[str, MutableSequence[Any]] = {
            name: array(CODES[name]) if name in CODES else []
            for name in (field.name for field in fields(Row))
            if name != KEY
        }
        self._keys = _Keys()
        for row in rows:
            self.append(row)

    def append(self, row: Row) -> None:
        """Add a row behind the others."""
        for name, values in self._columns.items():
            values.append(getattr(row, name))
        self._keys.append(row.audio_key)

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a field, row after row."""
        return self._keys if name == KEY else self._columns[name]

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Yield the values of some fields, row after row; a fraction of the time of whole rows."""
        return zip(*map(self.column, names), strict=True)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        return Row(*(self.column(field.name)[index] for field in fields(Row)))

    def __iter__(self) -> Iterator[Row]:
        return map(Row, *(self.column(field.name) for field in fields(Row)))


class _Keys(Sequence[str]):
    """SHA-256 digests, 32 bytes each, read as hexadecimal strings."""

    def __init__(self) -> None:
        self._content = bytearray()

    def append(self, key: str) -> None:
        self._content += bytes.fromhex(key)

    def __len__(self) -> int:
        return len(self._content) // KEY_BYTES

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        start = range(len(self))[index] * KEY_BYTES
        return self._content[start : start + KEY_BYTES].hex()
