"""Streams of MPEG audio frames (MP3), found by walking from frame to frame.

Decoders guess a stream's length from its first frame where no header tells it (Xing's, Info, VBRI)
and end there, stop at the first of several joined streams, and say nothing where one ends within a
frame. Layout
of frames: ISO/IEC 11172-3 and 13818-3; of the header that counts them: Xing's, as LAME writes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from distillery.data.decoding.source import Source
from distillery.errors import AudioError

CHUNK_BYTES = 2**18
_LAYER_1 = (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448)
_LAYER_2 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_LAYER_3 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_LOW_LAYER_1 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_LOW = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
KBITS = {
    (1, 1): _LAYER_1,
    (1, 2): _LAYER_2,
    (1, 3): _LAYER_3,
    (2, 1): _LOW_LAYER_1,
    (2, 2): _LOW,
    (2, 3): _LOW,
}
"""Kilobits a second, by version (2.5 as 2) and layer."""
RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""By the two bits of the version."""
XING_BYTES = 64
"""Smallest frame that holds a header which counts frames."""
EXACT_COUNTS = (b"LAME", b"Lavc", b"Lavf")
"""Encoders that do not count the frame of the header itself."""
MOST_STRAY_FRAMES = 2
MAX_STREAMS = 1000
MAX_JUNK_BYTES = 2**16
SURE_FRAMES = 6
"""So many in a row are no chance."""
ID3_BYTES, ID3V1_BYTES, APE_BYTES = 10, 128, 32


@dataclass(frozen=True)
class Frame:
    """One frame's header."""

    version: int
    """The two bits: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5."""
    layer: int
    rate_hz: int
    is_mono: bool
    length: int
    """Bytes, the header's included."""
    header: int

    @property
    def kind(self) -> tuple[int, int, int, bool]:
        """What all frames of one stream share."""
        return self.version, self.layer, self.rate_hz, self.is_mono

    @property
    def num_samples(self) -> int:
        """Samples that it holds."""
        if self.layer == 1:
            return 384
        return 576 if self.layer == 3 and self.version != 3 else 1152

    @property
    def tag_place(self) -> int:
        """Where a frame that counts the others says so."""
        if self.version == 3:
            return 4 + (17 if self.is_mono else 32)
        return 4 + (9 if self.is_mono else 17)


@dataclass(frozen=True)
class Stream:
    """Frames that one decoder reads."""

    start: int
    end: int
    prefix: bytes
    """A frame to put in front, which tells the decoder how many follow; empty where one does."""
    num_samples: int | None
    """In all frames; None where a frame counts them."""


@dataclass
class _Counting:
    """A stream while it is walked."""

    kind: tuple[int, int, int, bool]
    start: int
    first: Frame
    promised: int | None
    slack: int
    has_xing: bool
    end: int = 0
    count: int = 0


def parse_frame(header: bytes) -> Frame | None:
    """Return what four bytes say of a frame; None: they are no header, or of free format."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    bits = int.from_bytes(header, "big")
    version, layer = bits >> 19 & 3, 4 - (bits >> 17 & 3)
    rate_index, bitrate_index, padding = bits >> 10 & 3, bits >> 12 & 15, bits >> 9 & 1
    if version == 1 or layer == 4 or rate_index == 3 or bitrate_index in (0, 15):
        return None
    rate = RATES_HZ[version][rate_index]
    kbits = KBITS[1 if version == 3 else 2, layer][bitrate_index]
    if layer == 1:
        length = (12000 * kbits // rate + padding) * 4
    else:
        slots = 72000 if layer == 3 and version != 3 else 144000
        length = slots * kbits // rate + padding
    return Frame(version, layer, rate, bits >> 6 & 3 == 3, length, bits)


def tag_bytes(content: bytes) -> int:
    """Return the length of a tag that begins here (ID3v2, ID3v1, APE); 0: none does."""
    if content[:3] == b"ID3" and len(content) >= ID3_BYTES and max(content[6:10]) < 0x80:
        size = 0
        for byte in content[6:10]:
            size = size << 7 | byte
        return ID3_BYTES + size + (ID3_BYTES if content[5] & 0x10 else 0)
    if content[:3] == b"TAG":
        return ID3V1_BYTES
    if content[:8] == b"APETAGEX" and len(content) >= APE_BYTES:
        has_header_here = content[23] & 0x20
        size = int.from_bytes(content[12:16], "little")
        return APE_BYTES + size if has_header_here else APE_BYTES
    return 0


def skip_tags(source: Source, place: int = 0) -> int:
    """Return where what follows the tags in front begins."""
    while size := tag_bytes(source.at(place, APE_BYTES)):
        place += size
    return place


class _Reader:
    """Bytes of a source, a chunk at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._base, self._chunk = 0, b""

    def at(self, place: int, count: int) -> bytes:
        if not self._base <= place <= self._base + len(self._chunk) - count:
            self._base, self._chunk = place, self._source.at(place, CHUNK_BYTES)
        return self._chunk[place - self._base : place - self._base + count]

    def frame(self, place: int) -> Frame | None:
        return parse_frame(self.at(place, 4))


def looks_like_mpeg(source: Source, start: int, end: int) -> bool:
    """Return whether MPEG audio frames begin at a place."""
    frame = parse_frame(source.at(start, 4))
    if frame is None:
        return False
    following = parse_frame(source.at(start + frame.length, 4))
    return (following is not None and following.kind == frame.kind) or (
        start + frame.length >= min(end, source.size)
    )


def find_start(source: Source) -> int | None:
    """Return where frames begin behind some bytes that are none; None: nowhere near the start."""
    reader = _Reader(source)
    end = min(source.size, MAX_JUNK_BYTES)
    place = _next_frame(reader, 0, end)
    while place is not None:
        after, count = place, 0
        first = reader.frame(place)
        while (frame := reader.frame(after)) is not None and first and frame.kind == first.kind:
            after, count = after + frame.length, count + 1
            if count == SURE_FRAMES:
                return place
        place = _next_frame(reader, place + 1, end)
    return None


def find_streams(source: Source, start: int, end: int) -> list[Stream]:
    """Return the streams of frames in a part of a source, in order.

    Raises:
        AudioError: the part ends within a frame, or a stream holds fewer frames than its header
            counts.
    """
    if source.at(end - ID3V1_BYTES, 3) == b"TAG":
        end -= ID3V1_BYTES
    found = _walk(_Reader(source), source.name, start, end)
    while len(found) > 1 and not found[-1].has_xing and found[-1].count <= MOST_STRAY_FRAMES:
        found.pop()  # a count that is off by one
    streams = []
    for stream in found:
        if stream.promised is not None and stream.count < stream.promised - stream.slack:
            raise AudioError(
                f"{source.name}: ends after {stream.count} of {stream.promised} MP3 frames; the "
                "file is cut short"
            )
        prefix, num_samples = b"", None
        if not stream.has_xing:
            prefix = _counting_frame(stream.first, stream.count)
            num_samples = stream.count * stream.first.num_samples
        streams.append(Stream(stream.start, stream.end, prefix, num_samples))
    return streams


def _walk(reader: _Reader, name: str, place: int, end: int) -> list[_Counting]:
    found: list[_Counting] = []
    is_new = True
    while place < end:
        frame = reader.frame(place)
        if frame is not None and found and frame.kind != found[-1].kind:
            following = reader.frame(place + frame.length)  # another stream, or noise like one
            if following is None or following.kind != frame.kind:
                frame = None
        if frame is None:
            if size := tag_bytes(reader.at(place, APE_BYTES)):
                place, is_new = place + size, True
                continue
            resumed = _next_frame(reader, place + 1, end)
            if resumed is None:
                rest = reader.at(place, min(end - place, 4))
                if found and len(rest) < 4 and rest[:1] == b"\xff":
                    raise _cut_short(name, len(rest))
                break
            place = resumed
            continue
        if place + frame.length > end:
            if found and frame.kind == found[-1].kind:
                raise _cut_short(name, end - place, frame.length)
            break
        counts = _count_of(reader, place, frame)
        last = found[-1] if found else None
        is_full = last is not None and last.promised is not None and last.count >= last.promised
        if is_new or last is None or counts or is_full or frame.kind != last.kind:
            promised, slack, has_xing = counts or (None, 0, False)
            last = _Counting(frame.kind, place, frame, promised, slack, has_xing)
            found.append(last)
            if len(found) > MAX_STREAMS:
                raise AudioError(
                    f"{name}: joins more than {MAX_STREAMS} MP3 streams; convert it to WAV or FLAC"
                )
            is_new = False
            last.count = 0 if has_xing else 1
        else:
            last.count += 1
        place += frame.length
        last.end = place
    return found


def _cut_short(name: str, rest: int, length: int | None = None) -> AudioError:
    of = f" of {length}" if length else ""
    return AudioError(f"{name}: its last MP3 frame holds {rest}{of} bytes; the file is cut short")


def _next_frame(reader: _Reader, place: int, end: int) -> int | None:
    """Return where the next frame begins that another of its kind follows; None: nowhere."""
    while place + 4 <= end:
        chunk = reader.at(place, min(CHUNK_BYTES // 2, end - place))
        offset = chunk.find(b"\xff")
        while offset >= 0:
            frame = parse_frame(chunk[offset : offset + 4])
            if frame is not None:
                after = reader.frame(place + offset + frame.length)
                if after is not None and after.kind == frame.kind:
                    return place + offset
            offset = chunk.find(b"\xff", offset + 1)
        place += max(1, len(chunk) - 3)
    return None


def _count_of(reader: _Reader, place: int, frame: Frame) -> tuple[int | None, int, bool] | None:
    """Return how many frames a frame says that follow, and how far off that may be.

    The last value says whether decoders know this header, too. None: it is an ordinary frame.
    """
    if frame.layer != 3:
        return None
    content = reader.at(place, min(frame.length, 160))
    tag = content[frame.tag_place : frame.tag_place + 12]
    if tag[:4] in (b"Xing", b"Info"):
        if not tag[7] & 1:  # no count: decoders guess, so this one is left out
            return None
        is_exact = any(encoder in content for encoder in EXACT_COUNTS)
        return int.from_bytes(tag[8:12], "big"), 0 if is_exact else 1, True
    if content[36:40] == b"VBRI":
        return int.from_bytes(content[50:54], "big"), 2, False
    return None


def _counting_frame(first: Frame, count: int) -> bytes:
    """Return a frame that holds no sound but how many follow it; none where decoders ignore it."""
    if first.layer != 3:
        return b""
    header = first.header | 1 << 16  # no checksum
    sizes = (header & ~0xF200 | bitrate_index << 12 for bitrate_index in range(1, 15))
    frames = (parse_frame(size.to_bytes(4, "big")) for size in sizes)
    frame = next(frame for frame in frames if frame is not None and frame.length >= XING_BYTES)
    content = bytearray(frame.length)
    content[:4] = frame.header.to_bytes(4, "big")
    place = frame.tag_place
    content[place : place + 12] = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return bytes(content)
