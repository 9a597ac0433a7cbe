"""A clip of the test split as a recording, bit for bit."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from distillery.commands import main as cli
from distillery.data.manifest import COLUMNS, shard_name
from distillery.files import write_json
from tests.unit.data.test_manifest import SUMMARY

SAMPLES = np.array([0, 1, -32768, 32767, 5], np.int16)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with prepared data: one clip to train on, two in the test split."""
    folder = tmp_path / "data/prepared"
    folder.mkdir(parents=True)
    base = dict.fromkeys(COLUMNS, "x") | {"shard": 0, "duration_seconds": 0.1}
    rows = [
        {"utterance_id": "a", "split": "train", "offset_samples": 0, "num_samples": 2},
        {"utterance_id": "b", "split": "test", "offset_samples": 2, "num_samples": 2, "text": "ab"},
        {"utterance_id": "c", "split": "test", "offset_samples": 4, "num_samples": 1, "text": None},
    ]
    pd.DataFrame([base | row for row in rows]).to_parquet(folder / "manifest.parquet")
    write_json(folder / "summary.json", asdict(SUMMARY))
    (folder / shard_name(0)).write_bytes(SAMPLES.tobytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_clip_becomes_a_16_bit_wav_and_its_transcript_is_printed(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sample"]) == 0
    assert capsys.readouterr().out == "sample.wav\tab\n"
    found, rate_hz = soundfile.read(workspace / "sample.wav", dtype="int16")
    np.testing.assert_array_equal(found, SAMPLES[2:4])
    assert (rate_hz, soundfile.info(workspace / "sample.wav").subtype) == (8000, "PCM_16")
    assert cli.main(["sample", "1"]) == 0
    assert capsys.readouterr().out == "sample.wav\t(no transcript)\n"
    assert len(soundfile.read(workspace / "sample.wav")[0]) == 1


@pytest.mark.parametrize("index", ["2", "-1"])
def test_a_clip_that_is_not_there_is_refused_and_the_former_one_stays(
    workspace: Path, index: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "sample.wav").write_bytes(b"as it was")
    assert cli.main(["sample", "--", index]) == 2
    assert f"clip {index}: the test split has 2, counted from 0" in capsys.readouterr().err
    assert (workspace / "sample.wav").read_bytes() == b"as it was"
