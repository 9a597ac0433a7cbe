"""Rows in columns are those that were put in."""

import gc
import hashlib
from dataclasses import replace

import pytest

from distillery.prepare.rows import Row, Rows

ROW = Row(
    utterance_id="a",
    speaker=None,
    split="train",
    text="one",
    text_original="One",
    source_path="a.wav",
    shard=1,
    offset_samples=2**33,
    num_samples=160,
    duration_seconds=0.1,
    audio_key=hashlib.sha256(b"a").hexdigest(),
    level_dbfs=-20.3,
    clipped_fraction=0.25,
    dc_offset=1e-9,
    silent_fraction=1 / 3,
)
OTHER = replace(
    ROW,
    utterance_id="b",
    speaker="s",
    text=None,
    expected="one; two",
    audio_key=hashlib.sha256(b"b").hexdigest(),
)


def test_rows_come_back_as_they_were() -> None:
    rows = Rows([ROW, OTHER])
    rows.append(ROW)
    assert list(rows) == [ROW, OTHER, ROW] == rows[:] and len(rows) == 3
    assert rows[1] == rows[-2] == OTHER
    assert rows[1:] == [OTHER, ROW]
    with pytest.raises(IndexError):
        rows[3]
    assert not list(Rows())


def test_columns_hold_what_the_rows_do() -> None:
    rows = Rows([ROW, OTHER])
    assert list(rows.column("audio_key")) == [ROW.audio_key, OTHER.audio_key]
    assert rows.column("audio_key")[1:] == [OTHER.audio_key]
    assert list(rows.columns("speaker", "num_samples")) == [(None, 160), ("s", 160)]


def test_no_row_is_held_as_an_object() -> None:
    rows = Rows(replace(ROW, offset_samples=160 * index) for index in range(1000))
    gc.collect()
    assert sum(type(item) is Row for item in gc.get_objects()) <= 2  # those of this module
    assert rows[999].offset_samples == 159_840
