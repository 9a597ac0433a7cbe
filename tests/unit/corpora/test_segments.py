"""Segments of one recording: in any order, overlapping, up to the end, past the end."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from distillery.corpora.segments import Segment, cut_segments, read_segment
from distillery.data.audio import Audio, Reader, decode, to_int16
from distillery.data.decoding import blocks
from distillery.errors import AudioError
from tests.recordings import tone, written

RATE_HZ = 8000


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten seconds, read in blocks of an eighth of a second."""
    monkeypatch.setattr(blocks, "BLOCK_SAMPLES", 1000)
    (tmp_path / "a.flac").write_bytes(written(tone(10.0, RATE_HZ), "FLAC", RATE_HZ))
    return tmp_path / "a.flac"


def cut(path: Path, segments: list[Segment], keep: float = math.inf) -> dict[int, object]:
    return dict(cut_segments(Reader(path, "a"), segments, keep))


def test_segments_are_the_parts_of_the_whole(path: Path) -> None:
    whole, _ = decode(path)
    draw = np.random.default_rng(0)
    segments = [
        Segment(float(start), float(length))
        for start, length in zip(draw.uniform(0, 8, 50), draw.uniform(0.001, 2, 50), strict=True)
    ]
    segments += [Segment(3.0, None), Segment(0.0, None), Segment(0.0, 10.0), Segment(9.0, 1.04)]
    found = cut(path, segments)
    assert sorted(found) == list(range(len(segments)))
    for index, segment in enumerate(segments):
        audio = found[index]
        assert isinstance(audio, Audio)
        start = round(segment.offset_seconds * RATE_HZ)
        end = None
        if segment.duration_seconds is not None:
            end = start + round(segment.duration_seconds * RATE_HZ)
        np.testing.assert_array_equal(audio.samples, whole[start:end])
        assert audio.seconds == len(audio.samples) / RATE_HZ


def test_segments_past_the_end_are_errors_of_their_own(path: Path) -> None:
    found = cut(
        path, [Segment(10.0, 1.0), Segment(9.0, 2.0), Segment(1.0, 1.0), Segment(99.0, None)]
    )
    for index, words in ((0, "10.000 to 11.000"), (1, "9.000 to 11.000"), (3, "99.000 to 10.000")):
        assert isinstance(found[index], AudioError)
        assert f"a: the segment covers {words} s, the file holds 10.000 s" in str(found[index])
    assert isinstance(found[2], Audio)


def test_no_more_is_kept_than_asked_for(path: Path) -> None:
    found = cut(path, [Segment(0.0, None), Segment(1.0, 2.0)], keep=3.0)
    assert isinstance(found[0], Audio)
    assert (len(found[0].samples), found[0].seconds) == (0, 10.0)
    assert isinstance(found[1], Audio)
    assert len(found[1].samples) == 2 * RATE_HZ


def test_one_segment_alone_takes_a_channel(tmp_path: Path) -> None:
    channels = np.stack([tone(2.0, RATE_HZ, seed) for seed in range(2)], axis=1)
    (tmp_path / "a.wav").write_bytes(written(channels, "WAV", RATE_HZ))
    audio = read_segment(tmp_path / "a.wav", "a", Segment(0.5, 1.0), 1, math.inf)
    expected = to_int16(channels[4000:12000, 1])
    assert np.abs(audio.samples.astype(int) - expected).max() <= 1
    with pytest.raises(AudioError, match="the segment covers 2.500 to 2.000 s"):
        read_segment(tmp_path / "a.wav", "a", Segment(2.5, None), 1, math.inf)
