"""Recordings in segments: nothing is lost, cuts lie in pauses, little is held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from distillery.serve.segments import MAX_SEGMENT_SECONDS, MIN_LAST_SECONDS, in_segments

RATE_HZ = 1000


def speech(seconds: float, pauses: Sequence[float] = ()) -> np.ndarray:
    """Return loud noise, with half a second of hiss around each pause, all with an offset."""
    random = np.random.default_rng(0)
    samples = random.normal(500, 3000, round(seconds * RATE_HZ))
    for pause in pauses:
        place = slice(round((pause - 0.25) * RATE_HZ), round((pause + 0.25) * RATE_HZ))
        samples[place] = random.normal(500, 30, len(samples[place]))
    return samples.astype(np.int16)


def in_blocks(samples: np.ndarray, size: int = 700) -> Iterator[np.ndarray]:
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


@pytest.mark.parametrize("seconds", [0.0, 0.3, 25.0, 60.0])
def test_up_to_a_minute_stays_whole(seconds: float) -> None:
    samples = speech(seconds, [12.0])
    (found,) = in_segments(in_blocks(samples), RATE_HZ)
    assert np.array_equal(found.samples, samples)
    assert (found.start, found.end) == (0.0, seconds)


def test_a_longer_one_is_cut_within_its_pauses() -> None:
    pauses = [11.0, 25.0, 43.0, 57.0]
    samples = speech(70.0, pauses)
    found = list(in_segments(in_blocks(samples), RATE_HZ))
    assert np.array_equal(np.concatenate([item.samples for item in found]), samples)
    cuts = [item.start for item in found[1:]]
    assert cuts == pytest.approx(pauses, abs=0.16)
    assert [item.end for item in found] == [*cuts, 70.0]


@pytest.mark.parametrize("seconds", [60.1, 61.0, 73.4, 200.0])
def test_no_segment_is_too_long_or_too_short(seconds: float) -> None:
    for samples in (speech(seconds), np.zeros(round(seconds * RATE_HZ), np.int16)):
        found = list(in_segments(in_blocks(samples), RATE_HZ))
        lengths = [item.end - item.start for item in found]
        assert max(lengths) <= MAX_SEGMENT_SECONDS and min(lengths) >= MIN_LAST_SECONDS
        assert sum(len(item.samples) for item in found) == len(samples)


def test_segments_come_while_blocks_are_read() -> None:
    read = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal read
        for block in in_blocks(speech(300.0)):
            read += len(block)
            yield block

    for segment in in_segments(counted(), RATE_HZ):
        assert read / RATE_HZ <= segment.start + 61.0
