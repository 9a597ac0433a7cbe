"""Where the samples of a recording lie, as its header has it, and how many bytes they take.

libsndfile takes what is there of a file that was cut short and says so in no way that one can rely
on, so each kind of header is read once more here, for nothing but its sizes. Kinds whose header
does not tell a length (IRCAM, PAF, PVF, XI as libsndfile writes it) cannot be noticed as cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from distillery.data.decoding.source import Source

UNKNOWN_LENGTH_BYTES = 0x7FFF0000
"""Sizes from here on are what programs write that stream and never know the length."""
ALL_ONES = 2**32 - 1
MAX_CHUNKS = 10_000
MPEG_LAYER_3, GSM_610 = 0x55, 0x31
MAX_NAME_BYTES = 64
CAF_EDIT_BYTES = 4
"""In front of the samples of a CAF file, and counted with them."""
GSM_BLOCK_BYTES, GSM_BLOCK_SAMPLES = 65, 320


@dataclass(frozen=True)
class SizeField:
    """A number in a header that says how many bytes of samples follow."""

    place: int
    width: int
    """Of the number, in bytes."""
    order: Literal["big", "little"]
    extra: int = 0
    """What it counts beside the samples."""

    def holding(self, size: int) -> bytes:
        """Return the number for a size; all ones where it does not fit."""
        most = (1 << 8 * self.width) - 1
        return min(size + self.extra, most).to_bytes(self.width, self.order)


@dataclass(frozen=True)
class Extent:
    """The bytes that hold samples."""

    start: int
    size: int | None
    """As the header has it; None: it does not know."""
    size_field: SizeField | None = None
    """Where the header says that size, if it can be set."""
    ends: tuple[int, ...] = ()
    """Where, by its header, the whole file may end."""
    format_code: int | None = None
    """How a WAV file's samples are coded."""
    bytes_per_second: int = 0
    """Of a WAV or AU file."""


Chunk = tuple[bytes, int, int]
"""Name, place of the content, and bytes of it."""


def chunks(source: Source, place: int, order: str, end: int | None = None) -> Iterator[Chunk]:
    """Yield the chunks of an IFF or RIFF file; contents begin on even places."""
    for _ in range(MAX_CHUNKS):
        header = source.at(place, 8)
        if len(header) < 8 or (end is not None and place >= end):
            return
        size = int(struct.unpack(f"{order}I", header[4:])[0])
        yield header[:4], place + 8, size
        place += 8 + size + size % 2


def find_extent(source: Source) -> Extent | None:
    """Return where the samples lie; None where the header is of no kind known, or says nothing."""
    head = source.at(0, 64)
    for magic, read in READERS.items():
        if head.startswith(magic):
            try:
                extent = read(source, head)
            except (struct.error, ValueError, IndexError):
                return None  # a header that is cut or damaged: the decoder says so
            if extent is not None and extent.size is not None:
                ends = {*extent.ends, extent.start + extent.size}
                return replace(extent, ends=tuple(sorted(ends)))
            return extent
    return None


def _wav(source: Source, head: bytes) -> Extent | None:
    if head[8:12] == b"AVI ":
        return Extent(8, int.from_bytes(head[4:8], "little") or None)
    if head[8:12] != b"WAVE":
        return None
    order = ">" if head[:4] == b"RIFX" else "<"
    code, rate_bytes, large, field = None, 0, None, None
    for name, place, size in chunks(source, 12, order):
        content = source.at(place, 28)
        if name == b"fmt ":
            code = int(struct.unpack(f"{order}H", content[:2])[0])
            rate_bytes = int(struct.unpack(f"{order}I", content[8:12])[0])
        elif name == b"ds64":
            large = int(struct.unpack("<Q", content[8:16])[0])
            field = SizeField(place + 8, 8, "little")
        elif name == b"data":
            whole = 8 + int(struct.unpack(f"{order}I", head[4:8])[0])
            if size == ALL_ONES and large is not None:
                known = None if large in (0, 2**64 - 1) else large
            else:
                field = SizeField(place - 4, 4, "big" if order == ">" else "little")
                known = None if size >= UNKNOWN_LENGTH_BYTES else size
            return Extent(place, known, field, (whole,), code, rate_bytes)
    return None


def _aiff(source: Source, head: bytes) -> Extent | None:
    whole = 8 + int.from_bytes(head[4:8], "big")
    wanted = b"SSND" if head[8:12] in (b"AIFF", b"AIFC") else b"BODY"
    for name, place, size in chunks(source, 12, ">"):
        if name == wanted:
            extra = 8 if wanted == b"SSND" else 0  # two numbers in front of the samples
            known = None if size >= UNKNOWN_LENGTH_BYTES else max(0, size - extra)
            field = SizeField(place - 4, 4, "big", extra)
            return Extent(place + extra, known, field, (whole,))
    return None


def _au(source: Source, head: bytes) -> Extent | None:
    order = ">" if head[:4] == b".snd" else "<"
    start, size, coding, rate, channels = struct.unpack(f"{order}5I", head[4:24])
    width = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}.get(coding, 0)
    known = None if size >= UNKNOWN_LENGTH_BYTES else size
    field = SizeField(8, 4, "big" if order == ">" else "little")
    return Extent(start, known, field, bytes_per_second=rate * channels * width)


def _w64(source: Source, head: bytes) -> Extent | None:
    place = 40
    for _ in range(MAX_CHUNKS):
        header = source.at(place, 24)
        if len(header) < 24:
            return None
        size = int(struct.unpack("<Q", header[16:])[0])
        if header[:4] == b"data":
            known = None if size < 24 or size >= 2**62 else size - 24
            whole = int(struct.unpack("<Q", head[16:24])[0])
            return Extent(place + 24, known, SizeField(place + 16, 8, "little", 24), (whole,))
        place += max(24, size + -size % 8)
    return None


def _caf(source: Source, head: bytes) -> Extent | None:
    place = 8
    end: int | None = None
    data: Extent | None = None
    for _ in range(MAX_CHUNKS):
        header = source.at(place, 12)
        if len(header) < 12 or not all(0x20 <= byte < 0x7F for byte in header[:4]):
            if data is not None and data.size in (0, CAF_EDIT_BYTES) and header:
                return replace(data, size=None)  # it was never written
            break
        size = int(struct.unpack(">q", header[4:])[0])
        if header[:4] == b"data":
            data = Extent(place + 12, size, SizeField(place + 4, 8, "big"))
            if size < 0:
                return replace(data, size=None)
        place = end = place + 12 + max(0, size)
    if data is None or data.size is None or end is None:
        return None
    # What follows the samples may say how they are packed: it counts.
    ends = (data.start + data.size,)
    return replace(data, size=max(data.size, end - data.start), ends=ends)


def _sphere(source: Source, head: bytes) -> Extent | None:
    start = int(head[8:16])
    fields = {}
    for line in source.at(16, min(start, 2**16) - 16).split(b"\n"):
        if line == b"end_head":
            break
        words = line.split(maxsplit=2)
        if len(words) == 3:
            fields[words[0]] = words[2]
    if b"sample_count" not in fields:
        return Extent(start, None)
    count = int(fields[b"sample_count"])
    width = int(fields.get(b"sample_n_bytes", b"2")) * int(fields.get(b"channel_count", b"1"))
    if b"," in fields.get(b"sample_coding", b"pcm"):
        return Extent(start, None)  # compressed
    return Extent(start, count * width or None)


def _voc(source: Source, head: bytes) -> Extent | None:
    start = place = int.from_bytes(head[20:22], "little")
    for _ in range(MAX_CHUNKS):
        header = source.at(place, 4)
        if not header or header[0] == 0:
            place += len(header[:1])
            break
        place += 4 + int.from_bytes(header[1:], "little")
    return Extent(start, place - start)


def _avr(source: Source, head: bytes) -> Extent | None:
    is_mono = head[12:14] == b"\0\0"
    bits, frames = int.from_bytes(head[14:16], "big"), int.from_bytes(head[26:30], "big")
    return Extent(128, frames * (bits // 8) * (1 if is_mono else 2))


def _mpc(source: Source, head: bytes) -> Extent | None:
    frames = int.from_bytes(head[30:34], "little")
    return Extent(42, frames * 2 * (2 if head[21] else 1))


def _wve(source: Source, head: bytes) -> Extent | None:
    return Extent(32, int.from_bytes(head[18:22], "big"))


def _xi(source: Source, head: bytes) -> Extent | None:
    return Extent(338, int.from_bytes(source.at(298, 4), "little") or None)


def _sds(source: Source, head: bytes) -> Extent | None:
    bits = head[6]
    count = head[10] | head[11] << 7 | head[12] << 14
    samples_a_packet = 120 // (-(-bits // 7))
    return Extent(21, -(-count // samples_a_packet) * 127)


def _mat4(source: Source, head: bytes) -> Extent | None:
    order = ">" if head[:4] == b"\0\0\x03\xe8" else "<"
    start = place = 0
    for _ in range(2):  # the rate, then the samples
        kind, rows, columns, _, length = struct.unpack(f"{order}5I", source.at(place, 20))
        if not 0 < length <= MAX_NAME_BYTES or not rows or not columns:
            return None
        width = (8, 4, 4, 2, 2, 1)[kind // 10 % 10]
        start = place + 20 + length
        place = start + rows * columns * width
    return Extent(start, place - start)


def _mat5(source: Source, head: bytes) -> Extent | None:
    order = "<" if source.at(126, 2) == b"IM" else ">"
    place = 128
    _, size = struct.unpack(f"{order}II", source.at(place, 8))
    place += 8 + size + 8  # behind the matrix of the rate, within that of the samples
    for _ in range(3):  # flags, dimensions, name
        kind, size = struct.unpack(f"{order}II", source.at(place, 8))
        place += 8 if kind >> 16 else 8 + size + -size % 8
    _, size = struct.unpack(f"{order}II", source.at(place, 8))
    return Extent(place + 8, size)


def _iso(source: Source, head: bytes) -> Extent | None:
    """MP4, M4A, MOV, 3GP: boxes on the top level, all of which count, up to those of another."""
    place = 0
    for _ in range(MAX_CHUNKS):
        header = source.at(place, 16)
        if len(header) < 8:
            place += len(header) and 8
            break
        if place and header[4:8] == b"ftyp":
            return Extent(0, place, ends=(place,))
        size = int.from_bytes(header[:4], "big")
        if size == 1 and len(header) == 16:
            size = int.from_bytes(header[8:], "big")
        if size == 0:
            return Extent(0, None)
        place += max(8, size)
    return Extent(0, place)


def _ebml(source: Source, head: bytes) -> Extent | None:
    """Matroska, WebM: the header, then one segment whose size may be unknown."""
    place = 0
    for _ in range(2):
        identity = source.at(place, 4)
        size, length = _ebml_number(source.at(place + 4, 8))
        if size is None:
            return Extent(place + 4 + length, None)
        place += 4 + length + size
        if identity == b"\x18\x53\x80\x67":
            return Extent(place - size, size)
    return None


def _ebml_number(content: bytes) -> tuple[int | None, int]:
    """Return a number of variable length (None: unknown) and its length in bytes."""
    length = 9 - content[0].bit_length()
    number = int.from_bytes(content[:length], "big") & ((1 << 7 * length) - 1)
    return (None if number == (1 << 7 * length) - 1 else number), length


def _adts(source: Source, head: bytes) -> Extent | None:
    """AAC without a container: frame after frame."""
    place = 0
    while len(header := source.at(place, 7)) == 7 and header[0] == 0xFF and header[1] >= 0xF0:
        length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
        place += max(7, length)
    if 0 < source.size - place < 7 and source.at(place, 1) == b"\xff":
        place += 7
    return Extent(0, place)


def _flv(source: Source, head: bytes) -> Extent | None:
    """Flash video: tag after tag, the length of each behind it once more."""
    place = int.from_bytes(head[5:9], "big") + 4
    while len(header := source.at(place, 4)) == 4:
        place += 11 + int.from_bytes(header[1:], "big") + 4
    return Extent(0, place + len(header))


READERS: dict[bytes, Callable[[Source, bytes], Extent | None]] = {
    b"RIFF": _wav,
    b"RIFX": _wav,
    b"RF64": _wav,
    b"BW64": _wav,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": _au,
    b"riff\x2e\x91\xcf\x11": _w64,
    b"caff": _caf,
    b"NIST_1A": _sphere,
    b"Creative Voice File": _voc,
    b"2BIT": _avr,
    b"\x01\x04": _mpc,
    b"ALawSoundFile**": _wve,
    b"Extended Instrument:": _xi,
    b"\xf0\x7e": _sds,
    b"MATLAB 5.0": _mat5,
    b"\0\0\0\0": _mat4,
    b"\0\0\x03\xe8": _mat4,
    b"\x1aE\xdf\xa3": _ebml,
    b"FLV\x01": _flv,
    b"\xff\xf1": _adts,
    b"\xff\xf9": _adts,
    b"\xff\xf0": _adts,
    b"\xff\xf8": _adts,
}
"""By the first bytes of a file; boxes of MP4 have their name behind their size: `iso_extent`."""


def iso_extent(source: Source) -> Extent | None:
    """Return what the boxes of an MP4 file span, all of which count."""
    return _iso(source, b"")
