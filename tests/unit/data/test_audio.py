from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distillery.data.audio import (
    compute_num_samples,
    decode,
    estimate_seconds,
    find_audio,
    load_audio,
    resample,
    to_int16,
)
from distillery.errors import AudioError, EmptyAudio
from tests.recordings import written


def test_seconds_become_the_nearest_number_of_samples() -> None:
    assert compute_num_samples(0.25, 16000) == 4000
    assert compute_num_samples(0.00009, 16000) == 1  # 1.44 samples


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_pcm16_is_decoded_bit_by_bit(tmp_path: Path, write_recording, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    written = write_recording(path, 0.5, 8000)
    samples, rate = decode(path)
    assert rate == 8000
    assert samples.dtype == np.int16
    np.testing.assert_array_equal(samples, written)


def test_bytes_decode_like_the_file_that_holds_them(tmp_path: Path, write_recording) -> None:
    written = write_recording(tmp_path / "a.flac", 0.2)
    np.testing.assert_array_equal(decode((tmp_path / "a.flac").read_bytes())[0], written)


@pytest.mark.parametrize("kind", ["mp3", "ogg"])
def test_lossy_kinds_keep_rate_and_length(tmp_path: Path, write_recording, kind: str) -> None:
    written = write_recording(tmp_path / f"a.{kind}", 1.0)
    samples, rate = decode(tmp_path / f"a.{kind}")
    assert rate == 16000
    assert len(samples) == len(written)


def test_channels_are_averaged(tmp_path: Path) -> None:
    stereo = np.tile(np.array([[100, 300]], np.int16), (50, 1))  # (samples, channels)
    soundfile.write(tmp_path / "a.wav", stereo, 16000)
    np.testing.assert_array_equal(decode(tmp_path / "a.wav")[0], np.full(50, 200))


def test_loud_channels_do_not_overflow_when_averaged(tmp_path: Path) -> None:
    stereo = np.tile(np.array([[32767, 32767]], np.int16), (50, 1))
    soundfile.write(tmp_path / "a.wav", stereo, 16000)
    np.testing.assert_array_equal(decode(tmp_path / "a.wav")[0], np.full(50, 32767))


def test_float_samples_are_scaled_rounded_and_clipped(tmp_path: Path) -> None:
    waveform = np.array([0.5, -0.5, 1.5, -1.5, 0.4 / 32768, 0.6 / 32768], np.float32)
    soundfile.write(tmp_path / "a.wav", waveform, 16000, subtype="FLOAT")
    expected = [16384, -16384, 32767, -32768, 0, 1]
    np.testing.assert_array_equal(decode(tmp_path / "a.wav")[0], expected)
    np.testing.assert_array_equal(to_int16(waveform), expected)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        decode(tmp_path / "gone.wav")


def test_a_file_of_zero_bytes_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    with pytest.raises(EmptyAudio, match="holds 0 bytes"):
        decode(tmp_path / "a.wav")
    with pytest.raises(EmptyAudio, match="audio: holds 0 bytes"):
        decode(b"")


def test_a_header_without_samples_is_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.empty(0, np.int16), 16000)
    with pytest.raises(EmptyAudio, match="holds no samples"):
        decode(tmp_path / "a.wav")


def test_what_is_no_audio_is_refused_in_the_decoders_words_without_the_path(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.wav").write_text("no audio at all, only words")
    with pytest.raises(AudioError, match=r"^clip: cannot be decoded: .*[Ff]ormat") as caught:
        decode(tmp_path / "a.wav", name="clip")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_a_file_cut_in_half_is_refused(tmp_path: Path, write_recording, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    write_recording(path, 1.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"; the file is cut short|lost sync"):
        decode(path)


def test_a_wav_cut_after_its_header_is_refused(tmp_path: Path, write_recording) -> None:
    write_recording(tmp_path / "a.wav", 1.0)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:44])
    with pytest.raises(AudioError, match="holds no samples"):
        decode(tmp_path / "a.wav")


def test_a_streamed_wav_of_unknown_length_is_read_to_its_end(
    tmp_path: Path, write_recording
) -> None:
    written = write_recording(tmp_path / "a.wav", 1.0)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = b"\xff\xff\xff\xff"  # the size of the chunk `data`
    np.testing.assert_array_equal(decode(bytes(content))[0], written)


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.1, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite numbers"):
        decode(tmp_path / "a.wav")


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    samples = np.arange(10, dtype=np.int16)
    assert resample(samples, 8000, 8000) is samples


def test_resampling_keeps_a_tones_pitch_and_level() -> None:
    seconds = np.arange(8000) / 8000
    tone = np.round(10000 * np.sin(2 * np.pi * 440 * seconds)).astype(np.int16)
    doubled = resample(tone, 8000, 16000)
    assert doubled.dtype == np.int16
    assert len(doubled) == 16000
    spectrum = np.abs(np.fft.rfft(doubled))  # one second: bin = hertz
    assert int(spectrum.argmax()) == 440
    rms = np.sqrt(np.mean(doubled[1000:-1000].astype(float) ** 2))
    assert rms == pytest.approx(10000 / np.sqrt(2), rel=0.01)


def test_load_audio_returns_float32_at_the_rate_asked_for() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(800, 16384, np.int16), 8000, format="WAV")
    waveform = load_audio(buffer.getvalue(), 16000)
    assert waveform.dtype == np.float32
    assert waveform.shape == (1600,)
    assert waveform[800] == pytest.approx(0.5, abs=0.01)


def test_a_recording_longer_than_allowed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros(8000, np.int16), 8000)
    assert len(load_audio(path, 8000, max_seconds=1.0)) == 8000
    with pytest.raises(AudioError, match="a.flac: longer than 0.99 s, expected that at most"):
        load_audio(path, 8000, max_seconds=0.99)


def test_a_limited_recording_may_have_eight_channels(tmp_path: Path) -> None:
    for channels in (8, 9):
        soundfile.write(tmp_path / f"{channels}.wav", np.zeros((80, channels), np.int16), 8000)
    assert len(load_audio(tmp_path / "8.wav", 8000, max_seconds=1.0)) == 80
    assert len(load_audio(tmp_path / "9.wav", 8000)) == 80
    with pytest.raises(AudioError, match="9.wav: 9 channels, expected 8 at most"):
        load_audio(tmp_path / "9.wav", 8000, max_seconds=1.0)


def test_recordings_are_found_by_their_names(tmp_path: Path) -> None:
    names = ["b/a.WAV", "c.opus", "d.m4a", "e.Sph", "a.gsm"]
    others = ["._c.opus", ".hidden.wav", "notes.txt", "a.raw", "b/x.wav/inner.txt"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dangling.wav").symlink_to("nowhere")
    found = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path)]
    assert found == sorted([*names, "dangling.wav"])


def test_lengths_are_estimated_by_the_header_or_else_by_the_size(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.int16), 8000)
    assert estimate_seconds(tmp_path / "a.wav") == 1.0
    flac = bytearray(written(np.zeros(8000, np.int16), "FLAC", 8000))
    flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])  # of unknown length
    for name, content in (("b.flac", bytes(flac)), ("words.wav", b"words"), ("a.raw", b"1234")):
        (tmp_path / name).write_bytes(content)
        assert estimate_seconds(tmp_path / name) == len(content) / 4000
    os.mkfifo(tmp_path / "pipe.wav")
    assert estimate_seconds(tmp_path / "pipe.wav") == estimate_seconds(tmp_path / "absent") == 0.0
