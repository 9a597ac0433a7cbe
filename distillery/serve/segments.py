"""A recording in pieces that a student hears as wholes: cut at quiet places, block by block.

What is no longer than MAX_WHOLE_SECONDS stays whole, so its text is that without times. Of a longer
one no more is held than that, whatever its length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from distillery.serve.long_audio import is_long

MAX_SEGMENT_SECONDS = 20.0
"""Of a recording that is cut."""
MIN_SEGMENT_SECONDS = 10.0
"""Of all segments but the last."""
MIN_LAST_SECONDS = 1.0
QUIET_SECONDS = 0.2
"""Of the quietest stretch, in the middle of which it is cut."""
FRAME_SECONDS = 0.01


@dataclass(frozen=True)
class Segment:
    """A piece of a recording."""

    samples: np.ndarray
    """int16 `(samples,)`."""
    start: float
    """Seconds in the recording."""
    end: float


def in_segments(blocks: Iterable[np.ndarray], sample_rate_hz: int) -> Iterator[Segment]:
    """Yield the segments of a recording, in order; together they are the recording.

    Args:
        blocks: int16 `(samples,)`, in order.
        sample_rate_hz: of the blocks.
    """
    held, start, is_cut = np.empty(0, np.int16), 0, False
    longest = round(MAX_SEGMENT_SECONDS * sample_rate_hz)
    for block in blocks:
        held = np.concatenate([held, block])
        is_cut = is_cut or is_long(len(held), sample_rate_hz)
        while is_cut and len(held) > longest:
            size = quiet_place(held[:longest], sample_rate_hz)
            yield _segment(held[:size], start, sample_rate_hz)
            held, start = held[size:], start + size
    yield _segment(held, start, sample_rate_hz)


def _segment(samples: np.ndarray, start: int, sample_rate_hz: int) -> Segment:
    return Segment(samples, start / sample_rate_hz, (start + len(samples)) / sample_rate_hz)


def quiet_place(samples: np.ndarray, sample_rate_hz: int) -> int:
    """Return where samples `(samples,)` of the longest segment are cut: where least is heard."""
    size = max(1, round(FRAME_SECONDS * sample_rate_hz))
    frames = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float32)
    energies = np.square(frames - frames.mean()).mean(axis=1)  # (frames,)
    width = round(QUIET_SECONDS / FRAME_SECONDS)
    sums = np.convolve(energies, np.ones(width), mode="valid")  # from each frame on
    first = round(MIN_SEGMENT_SECONDS / FRAME_SECONDS) - width // 2
    last = len(energies) - round(MIN_LAST_SECONDS / FRAME_SECONDS) - width // 2
    return int(first + sums[first:last].argmin() + width // 2) * size
