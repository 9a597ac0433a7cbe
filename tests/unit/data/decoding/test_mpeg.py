"""MP3: the header's length is an estimate, streams are joined, files end within frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distillery.data.audio import decode
from distillery.data.decoding.mpeg import find_streams, looks_like_mpeg, parse_frame, tag_bytes
from distillery.data.decoding.source import Source
from distillery.errors import AudioError
from tests.recordings import RATE_HZ, mp3, mp3_frames, tone, written

FRAME = 576
"""Samples in a frame at 16 kHz."""
DELAY = 529
"""Samples by which decoders lag, which they leave out where the number of frames is known."""


def source(content: bytes) -> Source:
    return Source("a.mp3", len(content), content)


def loud_and_quiet(quiet_first: bool) -> np.ndarray:
    """Return ten seconds whose halves take a different number of bits."""
    samples = tone(10.0)
    samples += np.random.default_rng(1).normal(0, 0.2, len(samples)).astype(np.float32)
    half = slice(0, len(samples) // 2) if quiet_first else slice(len(samples) // 2, None)
    samples[half] *= 0.001
    return samples


@pytest.mark.parametrize("quiet_first", [False, True])
def test_a_variable_bitrate_without_a_count_is_read_to_its_end(quiet_first: bool) -> None:
    samples = loud_and_quiet(quiet_first)
    content = mp3(samples, with_count=False, bitrate_mode="VARIABLE", compression_level=0.5)
    heard, rate = decode(content)
    assert rate == RATE_HZ
    assert len(heard) in (num_samples := FRAME * len(mp3_frames(content)), num_samples - DELAY)
    assert 0 < len(heard) - len(samples) < 4 * FRAME  # what the encoder pads
    counted = decode(mp3(samples, bitrate_mode="VARIABLE", compression_level=0.5))[0]
    assert len(counted) == len(samples)
    loudest = [np.abs(audio.astype(int)).argmax() for audio in (heard, counted)]
    assert 0 < loudest[0] - loudest[1] < 3 * FRAME  # the encoder's delay


def test_a_constant_bitrate_without_a_count_is_read_to_its_end() -> None:
    content = mp3(tone(3.0), with_count=False, bitrate_mode="CONSTANT")
    num_samples = FRAME * len(mp3_frames(content))
    assert len(decode(content)[0]) in (num_samples, num_samples - DELAY)


@pytest.mark.parametrize("with_count", [True, False])
def test_joined_streams_are_all_read(with_count: bool) -> None:
    first, second = (mp3(tone(seconds, seed=9), with_count) for seconds in (1.0, 2.0))
    alone = [decode(content)[0] for content in (first, second)]
    heard = decode(first + second)[0]
    if with_count:
        np.testing.assert_array_equal(heard, np.concatenate(alone))
    else:
        assert 0 <= len(heard) - sum(map(len, alone)) <= DELAY


def test_a_stream_without_a_count_behind_one_with_is_read() -> None:
    first, second = mp3(tone(1.0)), mp3(tone(2.0), with_count=False)
    assert len(decode(first + second)[0]) == len(decode(first)[0]) + len(decode(second)[0])


def test_tags_before_between_and_behind_streams_are_no_sound() -> None:
    one = mp3(tone(1.0))
    id3v2 = b"ID3\x04\0\0\0\0\x01\x00" + b"\xff\xfb\x90\x00" * 32
    id3v1 = b"TAG" + bytes(125)
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)
    alone = decode(one)[0]
    for content in (id3v2 + one, one + id3v1, one + ape, id3v2 + one + id3v1, one + bytes(999)):
        np.testing.assert_array_equal(decode(content)[0], alone)
    np.testing.assert_array_equal(decode(id3v2 + one + id3v2 + one)[0], np.tile(alone, 2))
    assert tag_bytes(id3v2) == len(id3v2)


def test_streams_of_two_rates_are_refused() -> None:
    slow = written(tone(1.0, 8000), "MP3", 8000)
    with pytest.raises(AudioError, match=r"^a: joins recordings of 16000 and 8000 Hz, expected on"):
        decode(mp3(tone(1.0)) + slow, "a")


def test_a_file_that_ends_within_a_frame_is_cut_short() -> None:
    content = mp3(tone(1.0), with_count=False)
    last = len(mp3_frames(content)[-1])
    for cut in (1, last // 2, last - 4, last - 3, last - 1):
        with pytest.raises(AudioError, match=r"its last MP3 frame holds .* bytes; the file is cut"):
            decode(content[:-cut])


def test_a_count_tells_of_frames_that_are_missing() -> None:
    content = mp3(tone(2.0))
    frames = mp3_frames(content)
    with pytest.raises(
        AudioError, match=rf"after {len(frames) - 3} of {len(frames) - 1} MP3 frames; the file is"
    ):
        decode(b"".join(frames[:-2]))


def test_a_damaged_stretch_is_skipped_or_told() -> None:
    frames = mp3_frames(mp3(tone(3.0), with_count=False))
    skipped = b"".join([*frames[:40], bytes(300), *frames[40:]])
    (stream,) = find_streams(source(skipped), 0, len(skipped))
    assert (stream.start, stream.end) == (0, len(skipped))
    assert len(decode(skipped)[0]) >= FRAME * (len(frames) - 3)
    damaged = b"".join([*frames[:40], b"\xff\xfb\x13" + bytes(301), *frames[40:]])
    with pytest.raises(AudioError, match="samples; the file is cut short or damaged"):
        decode(damaged)


def test_what_begins_like_a_frame_is_none_without_a_second() -> None:
    frame = mp3_frames(mp3(tone(1.0)))[1]
    assert looks_like_mpeg(source(frame * 2), 0, 2 * len(frame))
    assert not looks_like_mpeg(source(frame + bytes(500)), 0, len(frame) + 500)
    assert parse_frame(b"\xff\xf1\x50\x80") is None  # AAC
    assert parse_frame(b"\xff") is None


def test_streams_without_end_are_refused(tmp_path: Path) -> None:
    mono, stereo = (
        mp3_frames(mp3(samples, with_count=False))[1]
        for samples in (tone(1.0), np.stack([tone(1.0)] * 2, axis=1))
    )
    (tmp_path / "a.mp3").write_bytes((mono * 2 + stereo * 2) * 600)
    with pytest.raises(AudioError, match="joins more than 1000 MP3 streams; convert it"):
        decode(tmp_path / "a.mp3")
