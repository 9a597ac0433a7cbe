"""Recordings for a student: as data are prepared where they are short, and not held where long."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distillery.data.audio import read_audio, resample, to_int16
from distillery.errors import AudioError, EmptyAudio
from distillery.serve.long_audio import MAX_WHOLE_SECONDS
from distillery.serve.reading import Recording


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
    recording = Recording(path, 16000)
    found = recording.sound()
    assert isinstance(found, np.ndarray)
    assert recording.caution is None and recording.seconds == len(found) / 16000
    np.testing.assert_array_equal(found, resample(read_audio(path).samples, rate_hz, 16000))
    np.testing.assert_array_equal(Recording(path.read_bytes(), 16000).sound(), found)


@pytest.mark.parametrize(
    ("rate_hz", "name"), [(8000, "a.wav"), (16000, "a.flac"), (24000, "a.w64")]
)
def test_long_ones_are_the_same_sound_and_length_each_time(
    tmp_path: Path, rate_hz: int, name: str
) -> None:
    seconds = 2 * MAX_WHOLE_SECONDS + 1.1
    path = written(tmp_path / name, tone(seconds, rate_hz), rate_hz)
    recording = Recording(path, 16000)
    assert recording.sound() is recording
    found = np.concatenate(list(recording))
    expected = tone(seconds, 16000)
    assert found.dtype == np.int16
    assert abs(len(found) - len(expected)) <= 1
    assert recording.seconds == len(found) / 16000
    ends = slice(200, len(expected) - 200)
    difference = found[ends].astype(int) - expected[ends].astype(int)
    assert np.abs(difference).max() <= (0 if rate_hz == 16000 else 4)
    np.testing.assert_array_equal(np.concatenate(list(recording)), found)


@pytest.mark.parametrize("rate_hz", [16000, 24000])
def test_no_more_of_a_long_one_is_held_than_of_a_short_one(tmp_path: Path, rate_hz: int) -> None:
    peaks, num_samples = [], []
    for minutes in (1.5, 1.5, 4.5):  # the first one imports what it needs
        path = written(tmp_path / "a.wav", tone(60 * minutes, rate_hz), rate_hz)
        tracemalloc.start()
        recording = Recording(path, 16000)
        assert recording.sound() is recording
        num_samples.append(sum(map(len, recording)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert num_samples[2] == 3 * num_samples[1]
    assert peaks[2] < 1.1 * peaks[1]


def test_one_channel_and_cautions_come_through(tmp_path: Path) -> None:
    left, right = tone(2, 16000), tone(2, 16000)[::-1].copy()
    path = written(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000)
    np.testing.assert_array_equal(Recording(path, 16000, channel=1).sound(), right)
    cancelled = Recording(
        written(tmp_path / "b.wav", np.stack([left, -left], axis=1), 16000), 16000
    )
    cancelled.sound()
    assert cancelled.caution
    (tmp_path / "c.wav").touch()
    with pytest.raises(EmptyAudio, match=r"^c: holds 0 bytes"):
        Recording(tmp_path / "c.wav", 16000, "c").sound()


def test_a_long_one_that_is_cut_short_is_told_at_its_end(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac", tone(2 * MAX_WHOLE_SECONDS, 16000), 16000)
    path.write_bytes(path.read_bytes()[:-1000])
    recording = Recording(path, 16000)
    assert recording.sound() is recording
    with pytest.raises(AudioError, match=r"a\.flac: "):
        list(recording)
    assert recording.seconds == 0
