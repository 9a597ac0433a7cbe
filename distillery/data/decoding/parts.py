"""Which parts of a recording are decoded one after another, and what is wrong with it at once.

Most recordings are one part, read as they are. Joined files (`cat a.mp3 b.mp3`) are as many as were
joined; a header that tells no length, or a wrong one, is mended in front of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from distillery.data.decoding import mpeg, ogg
from distillery.data.decoding.containers import (
    GSM_610,
    GSM_BLOCK_BYTES,
    GSM_BLOCK_SAMPLES,
    MPEG_LAYER_3,
    Extent,
    chunks,
    find_extent,
    iso_extent,
)
from distillery.data.decoding.source import Source
from distillery.errors import AudioError, EmptyAudio

LEAST_STRAY_SECONDS = 0.1
"""Bytes behind the samples that no header accounts for are samples from here on, no leftovers."""
FLAC_HEAD_BYTES, FLAC_TOTAL = 26, 2**36 - 1
"""Up to the end of the number of samples, and the bits of it."""
FLAC_MAGIC, FLAC_FIRST_BLOCKS = b"fLaC", (b"\0\0\0\x22", b"\x80\0\0\x22")
HEADERLESS = {".gsm", ".vox", ".sd2"}
"""Kinds that libsndfile tells by the name alone."""
GSM_FRAME_BYTES = 33
MEDIA = {
    b"\x1aE\xdf\xa3": "matroska",
    b"FLV\1": "flv",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
    b"#!AMR": "amr",
    b"wvpk": "wv",
    b"MAC ": "ape",
    b"TTA1": "tta",
    b"\0\0\1\xba": "mpeg",
    b"\x0b\x77": "ac3",
    b"\xff\xf0": "aac",
    b"\xff\xf1": "aac",
    b"\xff\xf8": "aac",
    b"\xff\xf9": "aac",
}
"""First bytes of what FFmpeg alone reads, and how it calls the kind."""
OGG_CODECS = (b"\x7fFLAC", b"Speex ")
"""First packets of codecs in Ogg that libsndfile does not read, or not as others write them."""
ISO_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"}
TRANSPORT_PACKET_BYTES = 188


@dataclass(frozen=True)
class Part:
    """Some bytes for one decoder."""

    start: int
    end: int
    prefix: bytes = b""
    """What is put in front."""
    media: str | None = None
    """FFmpeg's name of the kind; None: libsndfile reads it."""
    is_whole: bool = False
    """Whether it is the recording as it is."""
    min_samples: int | None = None
    """How many there are, where the decoder guesses; `prefix` tells it, should it guess less."""
    max_samples: int | None = None
    """Where the decoder would go on beyond the last one: how many there are."""
    promised_samples: int = 0
    """What the header says, where that was kept from the decoder: more may follow."""


def find_parts(source: Source) -> list[Part]:
    """Return what to decode of a source without tags in front, in order.

    Raises:
        EmptyAudio: the header is all that there is.
        AudioError: the recording is cut short, or holds what its header does not account for.
    """
    whole = [Part(0, source.size, is_whole=True)]
    if source.path is not None and source.path.suffix.lower() in HEADERLESS:
        _check_gsm(source)
        return whole
    if (media := media_kind(source)) is not None:
        extent = iso_extent(source) if media == "mov" else find_extent(source)
        if extent is not None and extent.size:
            _check_extent(source, extent)
            _refuse_joined(source, extent)
        if media == "mpegts" and (rest := source.size % TRANSPORT_PACKET_BYTES):
            raise AudioError(
                f"{source.name}: its last packet holds {rest} of {TRANSPORT_PACKET_BYTES} bytes; "
                "the file is cut short"
            )
        return [Part(0, source.size, media=media)]
    if mpeg.looks_like_mpeg(source, 0, source.size):
        return _mpeg_parts(source, 0, source.size) or whole
    if source.at(0, 4) == ogg.MAGIC:
        links = ogg.find_links(source)
        media = "ogg" if any(mark in source.at(0, 64) for mark in OGG_CODECS) else None
        if len(links) == 1 and media is None:
            return whole
        return [Part(*link, media=media) for link in links]
    if source.at(0, 4) == FLAC_MAGIC:
        return _flac_parts(source)
    if (extent := find_extent(source)) is not None:
        return _container_parts(source, extent) or whole
    if (start := mpeg.find_start(source)) is not None:
        return _mpeg_parts(source, start, source.size)
    return whole


def media_kind(source: Source) -> str | None:
    """Return FFmpeg's name of a kind that libsndfile does not read; None: it may read this."""
    head = source.at(0, 16)
    if head[4:8] in ISO_BOXES:
        return "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    for magic, media in MEDIA.items():
        if head.startswith(magic):
            return media
    packets = (source.at(number * TRANSPORT_PACKET_BYTES, 1) for number in range(3))
    return "mpegts" if all(packet == b"\x47" for packet in packets) else None


def _check_extent(source: Source, extent: Extent) -> None:
    """Make sure that there are as many bytes of samples as the header has it."""
    assert extent.size is not None
    present = source.size - extent.start
    if present <= 0 < extent.size:
        raise EmptyAudio(
            f"{source.name}: holds no samples, its header promises {extent.size} bytes of them; "
            "the file is cut short"
        )
    if present < extent.size:
        raise AudioError(
            f"{source.name}: ends after {present} of {extent.size} bytes of samples; the file is "
            "cut short"
        )


def _check_gsm(source: Source) -> None:
    """Make sure that a file without any header is what its name says: frames of GSM 6.10."""
    if source.path is None or source.path.suffix.lower() != ".gsm":
        return
    for place in range(0, source.size, GSM_FRAME_BYTES):
        if (source.at(place, 1)[0] & 0xF0) != 0xD0:
            raise AudioError(f"{source.name}: byte {place} begins no frame of GSM 6.10")
    if rest := source.size % GSM_FRAME_BYTES:
        raise AudioError(
            f"{source.name}: its last frame holds {rest} of {GSM_FRAME_BYTES} bytes; the file is "
            "cut short"
        )


def _mpeg_parts(source: Source, start: int, end: int) -> list[Part]:
    streams = mpeg.find_streams(source, start, end)
    is_all = start == 0 and end == source.size
    if is_all and len(streams) == 1 and streams[0].num_samples is None:
        return []  # as it is
    return [
        Part(stream.start, stream.end, stream.prefix, min_samples=stream.num_samples)
        for stream in streams
    ]


def _flac_parts(source: Source) -> list[Part]:
    """Return each of the joined files; how long it says that it is, the decoder is not told.

    It would end there, whatever follows.
    """
    starts, place = [0], 0
    while (place := source.find(FLAC_MAGIC, place + 1)) >= 0:
        if source.at(place + 4, 4) in FLAC_FIRST_BLOCKS:
            starts.append(place)
    parts = []
    for start, end in zip(starts, [*starts[1:], source.size], strict=True):
        head = bytearray(source.at(start, FLAC_HEAD_BYTES))
        if len(head) < FLAC_HEAD_BYTES:
            raise AudioError(f"{source.name}: ends within its header; the file is cut short")
        promised = int.from_bytes(head[21:26], "big") & FLAC_TOTAL
        head[21] &= 0xF0
        head[22:26] = bytes(4)
        parts.append(Part(start + FLAC_HEAD_BYTES, end, bytes(head), promised_samples=promised))
    return parts


def _container_parts(source: Source, extent: Extent) -> list[Part]:
    """Return parts of a file of samples behind a header; none where it is read as it is."""
    if extent.size:
        _check_extent(source, extent)
    is_known = bool(extent.size)
    end = extent.start + extent.size if extent.size else source.size
    if extent.format_code == MPEG_LAYER_3:
        return _mpeg_parts(source, extent.start, end)
    most = None
    if extent.format_code == GSM_610:  # libsndfile takes the byte that pads them for a block
        most = (end - extent.start) // GSM_BLOCK_BYTES * GSM_BLOCK_SAMPLES
    if not is_known:
        return _without_size(source, extent, most)
    _refuse_joined(source, extent)
    _check_rest(source, extent, end)
    return [] if most is None else [Part(0, source.size, is_whole=True, max_samples=most)]


def _without_size(source: Source, extent: Extent, max_samples: int | None) -> list[Part]:
    """Return the part of a file whose header does not know how long it became."""
    rest = source.size - extent.start
    if rest <= 0 or (extent.size == 0 and _are_chunks(source, extent.start)):
        raise EmptyAudio(f"{source.name}: holds no samples; expected speech")
    field = extent.size_field
    if field is None:
        if extent.size is None:
            return []
        raise AudioError(
            f"{source.name}: its header promises no samples, {rest} bytes follow it; the program "
            "that wrote it did not end well: convert it with one that reads to the end of a file"
        )
    head = bytearray(source.at(0, extent.start))
    head[field.place : field.place + field.width] = field.holding(rest)
    return [Part(extent.start, source.size, bytes(head), max_samples=max_samples)]


def _refuse_joined(source: Source, extent: Extent) -> None:
    """Refuse a second file of the same kind behind the first, which decoders leave out."""
    head = source.at(0, 12)
    magic = head[:4]
    kind = head[8:12] if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM") else b""
    for end in sorted({place for known in extent.ends for place in (known, known + known % 2)}):
        following = source.at(end, 12)
        is_same = following[:4] == magic and following[8:].startswith(kind)
        is_same |= head[4:8] == following[4:8] == b"ftyp"  # MP4: its size stands in front
        if end >= 12 and is_same:
            raise AudioError(
                f"{source.name}: another recording is joined to it at byte {end}, which readers "
                "of this kind leave out; split the file there, or join recordings with a program "
                "such as sox"
            )


def _check_rest(source: Source, extent: Extent, end: int) -> None:
    """Refuse samples that follow those which the header of a WAV or AU file knows of."""
    least = LEAST_STRAY_SECONDS * extent.bytes_per_second
    places = [place for place in (end, end + end % 2) if place <= source.size]
    stray = source.size - end
    if not least or stray < least or any(_are_chunks(source, place) for place in places):
        return
    if not source.at(end, 2**20).strip(b"\0") or mpeg.tag_bytes(source.at(end, 32)):
        return
    raise AudioError(
        f"{source.name}: {stray} bytes follow the {extent.size} that its header knows of; the "
        "program that wrote it did not end well: convert it with one that ignores the length in "
        "the header (sox --ignore-length)"
    )


def _are_chunks(source: Source, place: int) -> bool:
    """Return whether a place begins chunks that end where the file does, or before zeros."""
    if place >= source.size:
        return True
    end = place
    order = ">" if source.at(0, 4) in (b"FORM", b"RIFX") else "<"
    for name, start, size in chunks(source, place, order):
        if not all(0x20 <= byte < 0x7F for byte in name) or start + size > source.size:
            break
        end = start + size + size % 2
    return end >= source.size or (end > place and not source.at(end, 2**20).strip(b"\0"))
