"""A recording that still grows: a WAV or raw file that another process writes, or a pipe.

Samples are 16-bit PCM. A pipe ends when its writer closes it; a file when it has not grown for a
while, for nothing else tells that its writer is done. Until they close a file, writers leave in its
header sizes of 0, of 2 to 4 GiB, or of the first piece. So what the header says of the samples
counts only where it says that other chunks follow them, as it may in a file that is finished.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from distillery.data.audio import SAMPLE_SCALE, UNKNOWN_LENGTH_BYTES
from distillery.data.manifest import SAMPLE_DTYPE
from distillery.errors import AudioError, EmptyAudio

STDIN = "-"
CHUNK_SECONDS = 0.32
POLL_SECONDS = 0.05
PCM, EXTENSIBLE = 1, 0xFFFE
RIFF_SIZE_PLACE = 4
FORMAT_BYTES = 26
"""Of a format chunk: up to where an extensible one names what it extends."""

Chunk = tuple[np.ndarray, bool]


@contextlib.contextmanager
def follow(
    source: str, sample_rate_hz: int, raw_rate_hz: int | None, idle_seconds: float
) -> Iterator[Iterator[Chunk]]:
    """Open a growing recording.

    Args:
        source: path of a file or of a named pipe, or `-` for standard input.
        sample_rate_hz: the rate wanted; a stream is not resampled.
        raw_rate_hz: the rate of raw samples of one channel; None reads a WAV header.
        idle_seconds: a file that has not grown for so long is finished.

    Yields:
        An iterator over chunks, float32 `(samples,)` in [-1, 1), mixed down to one channel, each
        with whether it is the last; the last may be empty. Ctrl-C ends the recording.

    Raises:
        EmptyAudio: the recording ended without a sample.
        AudioError: there is no such file, it is no 16-bit WAV, its rate is another one, or it
            shrank.
    """
    name = "standard input" if source == STDIN else source
    with contextlib.ExitStack() as stack:
        if source == STDIN:
            descriptor, is_file = sys.stdin.fileno(), False
        else:
            try:
                opened = stack.enter_context(open(source, "rb", buffering=0))
            except OSError as error:
                raise AudioError(f"{name}: cannot be read: {error.strerror}") from None
            descriptor = opened.fileno()
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)  # or a named pipe
        stopped = _stopped_by_ctrl_c(stack)
        file = _Bytes(descriptor, name, stopped, idle_seconds if is_file else None)
        channels = 1
        rate = raw_rate_hz
        if rate is None:
            rate, channels = _read_header(file)
        if rate != sample_rate_hz:
            raise AudioError(
                f"{name}: at {rate} Hz, expected {sample_rate_hz} Hz, the student's rate; record "
                f"it at that rate, or transcribe the finished file without --stream"
            )
        yield _chunks(file, channels, rate)


def _stopped_by_ctrl_c(stack: contextlib.ExitStack) -> threading.Event:
    """Return what the first Ctrl-C sets; the second one interrupts as ever."""
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, stop))
    return stopped


def _chunks(file: _Bytes, channels: int, rate_hz: int) -> Iterator[Chunk]:
    frame_bytes = channels * SAMPLE_DTYPE.itemsize
    most = max(1, round(CHUNK_SECONDS * rate_hz)) * frame_bytes
    held, num_samples = b"", 0
    while content := file.read(most):
        held += content
        whole = len(held) // frame_bytes * frame_bytes
        samples = np.frombuffer(held[:whole], SAMPLE_DTYPE).reshape(-1, channels)
        held = held[whole:]
        num_samples += len(samples)
        yield samples.mean(axis=1, dtype=np.float32) / np.float32(SAMPLE_SCALE), False
    if not num_samples:
        raise EmptyAudio(f"{file.name}: ended without a sample; expected speech")
    yield np.zeros(0, np.float32), True


class _Bytes:
    """The bytes of a pipe as they come, or of a file until it has not grown for a while."""

    def __init__(
        self, descriptor: int, name: str, stopped: threading.Event, idle_seconds: float | None
    ) -> None:
        self.name = name
        self._descriptor = descriptor
        self._stopped = stopped
        self._idle_seconds = idle_seconds  # None: a pipe, which tells when it ends
        self._num_read = 0
        self._start: int | None = None  # where samples begin, once that is known
        self._end: int | None = None  # where they end, where that is known

    def read(self, most: int) -> bytes:
        """Return some bytes, waiting for them; none at the end.

        Raises:
            AudioError: the file became shorter.
        """
        is_file = self._idle_seconds is not None
        end = time.monotonic() + (self._idle_seconds or 0.0)
        while True:
            if is_file:
                self._look_at_header()
            if select.select([self._descriptor], [], [], POLL_SECONDS)[0]:  # files always are
                content = self._read_now(most)
                if content or not is_file:
                    return content
                if os.fstat(self._descriptor).st_size < self._num_read:
                    raise AudioError(f"{self.name}: became shorter while it was read; start again")
                if time.monotonic() > end:
                    return b""
                self._stopped.wait(POLL_SECONDS)
            if self._stopped.is_set():
                return b""

    def _read_now(self, most: int) -> bytes:
        if self._end is not None:
            most = max(0, min(most, self._end - self._num_read))
        content = os.read(self._descriptor, most)
        self._num_read += len(content)
        return content

    def read_exactly(self, count: int) -> bytes:
        """Return so many bytes.

        Raises:
            AudioError: it ends before.
        """
        content = b""
        while len(content) < count:
            more = self.read(count - len(content))
            if not more:
                raise AudioError(
                    f"{self.name}: ends within its header; expected a WAV file, or --rate for raw "
                    "samples"
                )
            content += more
        return content

    def begin_samples(self, riff_size: int, size: int) -> None:
        """Take note that samples begin here, and what the header says of its bytes and theirs."""
        self._start = self._num_read
        self._end = _end_of_samples(self._start, riff_size, size)

    def _look_at_header(self) -> None:
        """Read the sizes of a file anew: closing it sets them right."""
        if self._start is not None:
            (riff_size,) = struct.unpack("<I", os.pread(self._descriptor, 4, RIFF_SIZE_PLACE))
            (size,) = struct.unpack("<I", os.pread(self._descriptor, 4, self._start - 4))
            self._end = _end_of_samples(self._start, riff_size, size)


def _end_of_samples(start: int, riff_size: int, size: int) -> int | None:
    """Return the byte at which samples end, None where the header may not know it yet.

    Args:
        start: where they begin.
        riff_size: bytes behind the first two fields, as the header has it.
        size: bytes of samples, as the header has it.
    """
    are_known = 0 < size < UNKNOWN_LENGTH_BYTES and 0 < riff_size < UNKNOWN_LENGTH_BYTES
    something_follows = RIFF_SIZE_PLACE + 4 + riff_size > start + size + size % 2
    return start + size if are_known and something_follows else None


def _read_header(file: _Bytes) -> tuple[int, int]:
    """Read a WAV header up to the first sample; return rate in hertz and channels."""
    start = file.read_exactly(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        raise AudioError(
            f"{file.name}: begins with {start[:4]!r}, expected a WAV file; give --rate HZ if these "
            "are raw samples"
        )
    found: tuple[int, int] | None = None
    while True:
        kind, size = struct.unpack("<4sI", file.read_exactly(8))
        if kind == b"data":
            break
        content = file.read_exactly(size + size % 2)
        if kind == b"fmt ":
            found = _format(file.name, content)
    if found is None:
        raise AudioError(f"{file.name}: its header does not say how samples are stored")
    file.begin_samples(struct.unpack("<I", start[4:8])[0], size)
    return found


def _format(name: str, content: bytes) -> tuple[int, int]:
    if len(content) < 16:
        raise AudioError(f"{name}: its header is damaged")
    code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if code == EXTENSIBLE and len(content) >= FORMAT_BYTES:
        code = int.from_bytes(content[24:26], "little")
    if code != PCM or bits != 16 or not channels:
        raise AudioError(
            f"{name}: holds samples of format {code} with {bits} bits in {channels} channels, "
            "expected 16-bit PCM; transcribe the finished file without --stream"
        )
    return int(rate), int(channels)
