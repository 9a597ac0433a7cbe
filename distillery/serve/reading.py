"""A recording of any length for a student: its samples in 16 bits, at the student's rate."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from distillery.data.audio import Reader, as_waveform, resample, to_int16
from distillery.serve.long_audio import Sound, is_long


class Recording:
    """A recording's blocks, int16 `(samples,)`, read anew whenever they are gone through.

    What is long is never held: a student that has to hear it twice decodes it twice.
    """

    def __init__(
        self,
        source: Path | bytes,
        sample_rate_hz: int,
        name: str | None = None,
        channel: int | None = None,
    ) -> None:
        """Name a recording; nothing is opened yet.

        Args:
            source: as of `Reader`.
            sample_rate_hz: the rate wanted.
            name: how errors call it; the path by default.
            channel: as of `Reader`.
        """
        self.caution: str | None = None
        """What is wrong with its channels, once it was read to its end."""
        self.seconds = 0.0
        """How long it is, once it was read to its end."""
        self._reader_of = source, name, channel
        self._rate_hz = sample_rate_hz

    def __iter__(self) -> Generator[np.ndarray, None, None]:
        """Yield its blocks, in order; few are empty.

        Raises:
            AudioError: as `Reader.blocks`.
        """
        reader, num_samples = Reader(*self._reader_of), 0
        for block in _blocks_at(reader, self._rate_hz):
            num_samples += len(block)
            yield block
        self.seconds, self.caution = num_samples / self._rate_hz, reader.caution

    def sound(self) -> Sound:
        """Return all samples of a short recording, int16 `(samples,)`; of a long one, itself.

        Raises:
            AudioError: as `Reader.blocks`.
        """
        held: list[np.ndarray] = []
        with closing(iter(self)) as blocks:
            for block in blocks:
                held.append(block)
                if is_long(sum(map(len, held)), self._rate_hz):
                    return self
        return np.concatenate(held)


def _blocks_at(reader: Reader, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """Yield a recording at a rate, int16 `(samples,)`, block by block.

    A recording that is heard in pieces, and has another rate, is resampled by soxr while it is
    decoded; shorter ones are resampled as data are prepared.
    """
    held, stream, rate_hz = np.empty(0, np.int16), None, sample_rate_hz
    for block, rate_hz in reader.blocks():
        if rate_hz == sample_rate_hz:
            yield block
            continue
        if stream is None:
            held = np.concatenate([held, block])
            if not is_long(len(held), rate_hz):
                continue
            import soxr

            stream = soxr.ResampleStream(rate_hz, sample_rate_hz, 1, dtype="float32")
            block, held = held, np.empty(0, np.int16)
        yield to_int16(stream.resample_chunk(as_waveform(block)))
    if stream is not None:
        yield to_int16(stream.resample_chunk(np.empty(0, np.float32), last=True))
    elif rate_hz != sample_rate_hz:
        yield resample(held, rate_hz, sample_rate_hz)
