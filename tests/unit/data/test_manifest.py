from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from distillery.data.manifest import (
    COLUMNS,
    PreparedData,
    SplitCounts,
    Summary,
    audio_key,
    shard_name,
)
from distillery.errors import ManifestError
from distillery.files import read_json, write_json


@pytest.fixture
def rows() -> list[dict[str, object]]:
    base = dict.fromkeys(COLUMNS, "x") | {"shard": 0, "duration_seconds": 0.1}
    return [
        base
        | {
            "utterance_id": "a",
            "split": "train",
            "offset_samples": 0,
            "num_samples": 3,
        },
        base | {"utterance_id": "b", "split": "test", "offset_samples": 3, "num_samples": 2},
    ]


SUMMARY = Summary(
    corpus="manifest",
    sample_rate_hz=8000,
    text_rule="as it stands",
    alphabet="ab",
    split_rule={"test": "official", "valid": "official"},
    splits={"train": SplitCounts(1, 1, 0, 1, 0.000833)},
    num_hidden_transcripts=0,
    dropped={},
)


def write(folder: Path, rows: list[dict[str, object]], num_samples: int = 5) -> Path:
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    write_json(folder / "summary.json", asdict(SUMMARY))
    (folder / shard_name(0)).write_bytes(np.arange(num_samples, dtype="<i2").tobytes())
    return folder


SAVED_SUMMARY = """{
  "alphabet": "abcdefghijklmnopqrstuvwxyz'",
  "corpus": "commands",
  "dropped": {
    "too_short_for_ctc": 1
  },
  "num_hidden_transcripts": 0,
  "sample_rate_hz": 16000,
  "split_rule": {
    "test": "official",
    "valid": "by speaker"
  },
  "splits": {
    "test": {
      "hours": 0.180116,
      "num_labelled": 320,
      "num_speakers": 8,
      "num_unlabelled": 0,
      "num_utterances": 320
    }
  },
  "text_rule": "Unicode NFC, apostrophes unified, case: lower"
}
"""
"""As an earlier Distillery wrote it."""


def test_a_saved_summary_is_read_and_written_alike(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(SAVED_SUMMARY)
    summary = read_json(path, Summary)
    assert summary.splits["test"] == SplitCounts(320, 320, 0, 8, 0.180116)
    write_json(path, summary.entries)
    assert path.read_text() == SAVED_SUMMARY


def test_a_damaged_summary_is_named(tmp_path: Path, rows) -> None:
    folder = write(tmp_path, rows)
    for content, found in (("{", "Invalid JSON"), ('{"corpus": "x"}', "sample_rate_hz: Field re")):
        (folder / "summary.json").write_text(content)
        with pytest.raises(ManifestError, match=f"summary.json: cannot be used: {found}.*again"):
            PreparedData.open(folder)


def test_the_audio_key_is_the_sha256_of_little_endian_samples() -> None:
    samples = np.array([1, -2], np.int16)
    expected = hashlib.sha256(b"\x01\x00\xfe\xff").hexdigest()
    assert audio_key(samples) == expected
    assert audio_key(samples.astype(">i2")) == expected
    assert audio_key(np.repeat(samples, 2)[::2]) == expected  # not contiguous


def test_samples_are_read_from_the_right_place(tmp_path: Path, rows) -> None:
    data = PreparedData.open(write(tmp_path, rows))
    (row,) = data.split("test").itertuples()
    np.testing.assert_array_equal(data.samples(row), [3, 4])
    np.testing.assert_array_equal(data.waveform(row), np.array([3 / 32768, 4 / 32768], np.float32))
    assert data.waveform(row).dtype == np.float32
    assert data.sample_rate_hz == 8000
    assert data.vocabulary.tokens == ("<blank>", "|", "a", "b")


def test_mapped_samples_cannot_be_written(tmp_path: Path, rows) -> None:
    data = PreparedData.open(write(tmp_path, rows))
    samples = data.samples(SimpleNamespace(shard=0, offset_samples=0, num_samples=1))
    with pytest.raises(ValueError, match="read-only"):
        samples[0] = 7


def test_a_folder_without_prepared_data_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no prepared data; run make prepare"):
        PreparedData.open(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path, rows) -> None:
    for row in rows:
        del row["audio_key"]
    with pytest.raises(ManifestError, match=r"columns \['audio_key'\] are missing"):
        PreparedData.open(write(tmp_path, rows))


def test_a_repeated_utterance_is_named(tmp_path: Path, rows) -> None:
    rows[1]["utterance_id"] = "a"
    with pytest.raises(ManifestError, match="utterance 'a' occurs twice"):
        PreparedData.open(write(tmp_path, rows))


def test_an_unknown_split_is_named(tmp_path: Path, rows) -> None:
    rows[1]["split"] = "dev"
    with pytest.raises(ManifestError, match=r"splits \['dev'\], expected"):
        PreparedData.open(write(tmp_path, rows))


@pytest.mark.parametrize("num_samples", [0, 4])
def test_a_shard_that_is_too_short_is_named(tmp_path: Path, rows, num_samples: int) -> None:
    words = rf"audio-00000\.pcm: holds {num_samples} samples, the manifest points at 5"
    with pytest.raises(ManifestError, match=words):
        PreparedData.open(write(tmp_path, rows, num_samples))


def test_a_missing_shard_counts_as_empty(tmp_path: Path, rows) -> None:
    (write(tmp_path, rows) / shard_name(0)).unlink()
    with pytest.raises(ManifestError, match="holds 0 samples"):
        PreparedData.open(tmp_path)


def test_a_split_may_be_asked_for_some_columns(
    tmp_path: Path, rows: list[dict[str, object]]
) -> None:
    data = PreparedData.open(write(tmp_path, rows))
    whole, some = data.split("train"), data.split("train", ("audio_key", "nonsense", "text"))
    assert list(some) == ["audio_key", "text"]
    pd.testing.assert_frame_equal(some, whole[["audio_key", "text"]])
