"""Recordings for a student: as data are prepared where they are short, and held once where long."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distillery.data.audio import read_audio, resample, to_int16
from distillery.errors import EmptyAudio
from distillery.serve.long_audio import MAX_WHOLE_SECONDS
from distillery.serve.reading import read_at


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    """Return a tone of 300 Hz whose level changes, int16 `(samples,)`."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = np.sin(2 * np.pi * 300 * time) * (0.3 + 0.2 * np.sin(time))
    return to_int16(wave.astype(np.float32))


def written(path: Path, samples: np.ndarray, rate_hz: int) -> Path:
    soundfile.write(path, samples, rate_hz)
    return path


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000])
def test_short_ones_are_what_preparation_makes_of_them(tmp_path: Path, rate_hz: int) -> None:
    path = written(tmp_path / "a.wav", tone(3.21, rate_hz), rate_hz)
    found, caution = read_at(path, 16000)
    expected = read_audio(path)
    assert caution is None
    np.testing.assert_array_equal(found, resample(expected.samples, rate_hz, 16000))
    np.testing.assert_array_equal(read_at(path.read_bytes(), 16000)[0], found)


@pytest.mark.parametrize(
    ("rate_hz", "name"), [(8000, "a.wav"), (16000, "a.flac"), (24000, "a.w64")]
)
def test_long_ones_are_the_same_sound_and_length(tmp_path: Path, rate_hz: int, name: str) -> None:
    seconds = 2 * MAX_WHOLE_SECONDS + 1.1
    path = written(tmp_path / name, tone(seconds, rate_hz), rate_hz)
    found, _ = read_at(path, 16000)
    expected = tone(seconds, 16000)
    assert found.dtype == np.int16
    assert abs(len(found) - len(expected)) <= 1
    ends = slice(200, len(expected) - 200)
    difference = found[ends].astype(int) - expected[ends].astype(int)
    assert np.abs(difference).max() <= (0 if rate_hz == 16000 else 4)


def test_long_ones_are_held_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", tone(420, 24000), 24000)
    read_at(written(tmp_path / "b.wav", tone(1, 24000), 24000), 16000)  # imports what it needs
    tracemalloc.start()
    found, _ = read_at(path, 16000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.nbytes > 13e6
    # Some room, and a block in several forms; blocks that are joined at the end make it 2.3.
    assert peak_bytes < 1.7 * found.nbytes


def test_one_channel_and_cautions_come_through(tmp_path: Path) -> None:
    left, right = tone(2, 16000), tone(2, 16000)[::-1].copy()
    path = written(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000)
    np.testing.assert_array_equal(read_at(path, 16000, channel=1)[0], right)
    cancelled = written(tmp_path / "b.wav", np.stack([left, -left], axis=1), 16000)
    assert read_at(cancelled, 16000)[1]
    (tmp_path / "c.wav").touch()
    with pytest.raises(EmptyAudio, match=r"^c: holds 0 bytes"):
        read_at(tmp_path / "c.wav", 16000, "c")
