"""A recording of any length for a student: its samples once, in 16 bits, at the student's rate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distillery.data.audio import Reader, as_waveform, resample, to_int16
from distillery.serve.long_audio import is_long

GROWTH = 1.125
"""By which room for samples grows: in place, for what is large."""


class _Samples:
    """Samples in one piece that grows; blocks that are joined at the end would be held twice."""

    def __init__(self) -> None:
        self._room = np.empty(0, np.int16)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, block: np.ndarray) -> None:
        """Append int16 `(samples,)`."""
        size = self._size + len(block)
        if size > len(self._room):
            self._room.resize(max(size, int(len(self._room) * GROWTH)), refcheck=False)
        self._room[self._size : size] = block
        self._size = size

    def whole(self) -> np.ndarray:
        """Return all of them; none may be added any more."""
        self._room.resize(self._size, refcheck=False)
        return self._room


def blocks_at(reader: Reader, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Yield a recording at a rate, int16 `(samples,)`, block by block.

    A recording that is heard in pieces, and has another rate, is resampled by soxr while it is
    decoded; shorter ones are resampled as data are prepared.

    Args:
        reader: the recording.
        sample_rate_hz: the rate wanted.

    Raises:
        AudioError: as `Reader.blocks`.
    """
    held, stream, rate_hz = _Samples(), None, sample_rate_hz
    for block, rate_hz in reader.blocks():
        if rate_hz == sample_rate_hz:
            yield block
            continue
        if stream is None:
            held.add(block)
            if not is_long(len(held), rate_hz):
                continue
            import soxr

            stream = soxr.ResampleStream(rate_hz, sample_rate_hz, 1, dtype="float32")
            block, held = held.whole(), _Samples()
        yield to_int16(stream.resample_chunk(as_waveform(block)))
    if stream is not None:
        yield to_int16(stream.resample_chunk(np.empty(0, np.float32), last=True))
    elif rate_hz != sample_rate_hz:
        yield resample(held.whole(), rate_hz, sample_rate_hz)


def read_at(
    source: Path | bytes, sample_rate_hz: int, name: str | None = None, channel: int | None = None
) -> tuple[np.ndarray, str | None]:
    """Return a recording's samples at a rate, int16 `(samples,)`, and what is wrong with channels.

    They are held once.

    Args:
        source: as of `Reader`.
        sample_rate_hz: the rate wanted.
        name: how errors call it; the path by default.
        channel: as of `Reader`.

    Raises:
        AudioError: as `Reader.blocks`.
    """
    reader = Reader(source, name, channel)
    samples = _Samples()
    for block in blocks_at(reader, sample_rate_hz):
        samples.add(block)
    return samples.whole(), reader.caution
