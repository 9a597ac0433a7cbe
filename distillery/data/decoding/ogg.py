"""The links of an Ogg file, found by walking from page to page (RFC 3533).

Decoders read the first of several joined (chained) files, and take a file that lacks its last pages
for a short one. The last page of each logical stream says that it is the last.
"""

from __future__ import annotations

from distillery.data.decoding.source import Source
from distillery.errors import AudioError

MAGIC = b"OggS"
HEADER_BYTES = 27
FIRST, LAST = 2, 4
MAX_LINKS = 1000


def find_links(source: Source) -> list[tuple[int, int]]:
    """Return where each link begins and ends.

    Raises:
        AudioError: a link ends before its last page, a page before its last byte, or something
            else stands between pages.
    """
    starts: list[int] = []
    running: set[bytes] = set()  # serial numbers of streams without their last page
    is_beginning = False  # first pages of all streams of a link precede its others
    place = end = 0
    while place < source.size:
        header = source.at(place, HEADER_BYTES + 255)
        if header[:4] != MAGIC:
            following = source.find(MAGIC, place + 1)
            if following < 0:
                break
            raise AudioError(
                f"{source.name}: no page of Ogg begins at byte {place}, one does at {following}; "
                "the file is damaged, or what was joined there was cut short"
            )
        length = _page_bytes(header)
        if length is None or place + length > source.size:
            raise AudioError(f"{source.name}: ends within a page of Ogg; the file is cut short")
        flags, serial = header[5], header[14:18]
        if flags & FIRST:
            if not is_beginning or serial in running:
                _check_ended(source, running)
                starts.append(place)
            running.add(serial)
        is_beginning = bool(flags & FIRST)
        if flags & LAST:
            running.discard(serial)
        place = end = place + length
    _check_ended(source, running)
    if len(starts) > MAX_LINKS:
        raise AudioError(
            f"{source.name}: joins more than {MAX_LINKS} Ogg streams; convert it to WAV or FLAC"
        )
    return list(zip(starts, [*starts[1:], end], strict=True))


def _page_bytes(header: bytes) -> int | None:
    """Return a page's length from its start; None: the header itself is cut."""
    if len(header) < HEADER_BYTES or len(header) < HEADER_BYTES + header[26]:
        return None
    table = header[HEADER_BYTES : HEADER_BYTES + header[26]]
    return HEADER_BYTES + len(table) + sum(table)


def _check_ended(source: Source, running: set[bytes]) -> None:
    if running:
        raise AudioError(f"{source.name}: lacks its last page of Ogg; the file is cut short")
