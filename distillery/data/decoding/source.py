"""The bytes of a recording: any place of a file or of memory, and windows that look like files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from distillery.errors import AudioError, EmptyAudio

SEARCH_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """A recording's bytes, of which any part can be read; the whole is never held."""

    name: str
    """How errors call it."""
    size: int
    """Bytes."""
    content: bytes | None
    """Those bytes, where they are in memory."""
    descriptor: int = -1
    """Of the open file, where they are not."""
    path: Path | None = None
    """Of that file."""
    base: int = 0
    """Where in there the recording begins."""

    def at(self, offset: int, count: int) -> bytes:
        """Return bytes from an offset on; fewer, or none, at the end."""
        count = max(0, min(count, self.size - offset))
        offset += self.base
        if self.content is not None:
            return self.content[offset : offset + count]
        return os.pread(self.descriptor, count, offset)

    def without(self, count: int) -> Source:
        """Return all but so many bytes at the start."""
        return replace(self, base=self.base + count, size=max(0, self.size - count), path=None)

    def find(self, wanted: bytes, start: int) -> int:
        """Return where some bytes occur from an offset on; -1: nowhere."""
        while start < self.size:
            place = self.at(start, SEARCH_BYTES + len(wanted) - 1).find(wanted)
            if place >= 0:
                return start + place
            start += SEARCH_BYTES
        return -1


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[Source]:
    """Open a recording's bytes.

    Args:
        source: a path, or the content of such a file.
        name: how errors call it.

    Raises:
        EmptyAudio: there is not one byte.
        AudioError: the file is missing, or cannot be read.
    """
    if isinstance(source, bytes):
        if not source:
            raise EmptyAudio(f"{name}: holds 0 bytes; expected a recording")
        yield Source(name, len(source), source)
        return
    if not source.is_file():  # a pipe would be waited for
        raise AudioError(f"{name}: no such file")
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror}") from None
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            raise EmptyAudio(f"{name}: holds 0 bytes; expected a recording")
        yield Source(name, size, None, descriptor, source)
    finally:
        os.close(descriptor)


class Window(io.RawIOBase):
    """Some bytes, then a part of a source, as one file that can be read and sought in."""

    def __init__(self, source: Source, start: int, end: int, prefix: bytes = b"") -> None:
        super().__init__()
        self._source, self._start, self._prefix = source, start, prefix
        self._size = len(prefix) + end - start
        self._place = 0

    def readable(self) -> bool:
        """Return whether it can be read: always."""
        return True

    def seekable(self) -> bool:
        """Return whether it can be sought in: always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: object) -> int:
        """Fill a buffer; return how many bytes there were."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        filled = 0
        while filled < len(view) and self._place < self._size:
            content = self._some(len(view) - filled)
            if not content:
                break
            view[filled : filled + len(content)] = content
            filled += len(content)
            self._place += len(content)
        return filled

    def _some(self, count: int) -> bytes:
        if self._place < len(self._prefix):
            return self._prefix[self._place : self._place + count]
        place = self._place - len(self._prefix)
        count = min(count, self._size - self._place)
        return self._source.at(self._start + place, count)
