"""Headers that do not know, or lie about, how much follows them; files that were joined."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from distillery.data.audio import decode
from distillery.errors import AudioError, EmptyAudio
from tests.recordings import RATE_HZ, mp3, tone, written

SIZE = slice(40, 44)
"""Of a plain WAV file: where its header has the bytes of samples."""


def wav(seconds: float = 1.0, size: int | None = None, riff: int | None = None) -> bytes:
    content = bytearray(written(tone(seconds), "WAV"))
    for place, value in ((40, size), (4, riff)):
        if value is not None:
            content[place : place + 4] = struct.pack("<I", value)
    return bytes(content)


@pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF - 36])
def test_a_wav_that_does_not_know_its_length_is_read_to_its_end(
    size: int, riff: int | None
) -> None:
    heard, rate = decode(wav(size=size, riff=riff))
    assert rate == RATE_HZ
    np.testing.assert_array_equal(heard, decode(wav())[0])


@pytest.mark.parametrize("riff", [None, 0, 0xFFFFFFFF])
def test_sizes_that_only_the_outer_header_lacks_do_no_harm(riff: int | None) -> None:
    np.testing.assert_array_equal(decode(wav(riff=riff))[0], decode(wav())[0])


def test_a_wav_in_the_other_order_is_read_without_its_length() -> None:
    content = bytearray(written(tone(1.0), "WAV", endian="BIG"))
    whole = decode(bytes(content))[0]
    assert content[:4] == b"RIFX"
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = bytes(4)
    np.testing.assert_array_equal(decode(bytes(content))[0], whole)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_an_au_file_that_does_not_know_its_length_is_read_to_its_end(size: int) -> None:
    content = bytearray(written(tone(1.0), "AU"))
    whole = decode(bytes(content))[0]
    content[8:12] = struct.pack(">I", size)
    np.testing.assert_array_equal(decode(bytes(content))[0], whole)


UNKNOWN_SIZES = (
    ("AIFF", b"SSND", ">I", (0, 8, 0xFFFFFFFF, 0x7FFFFFFF)),
    ("W64", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a", "<Q", (0, 24, 2**64 - 1)),
    ("CAF", b"data", ">q", (-1, 0, 4)),
    ("RF64", b"ds64\x1c\0\0\0", "<Q", (0, 2**64 - 1)),
    ("SVX", b"BODY", ">I", (0, 0xFFFFFFFF)),
)


@pytest.mark.parametrize(
    ("kind", "name", "form", "sizes"), UNKNOWN_SIZES, ids=[row[0] for row in UNKNOWN_SIZES]
)
def test_others_that_do_not_know_their_length_are_read_to_their_end(
    kind: str, name: bytes, form: str, sizes: tuple[int, ...]
) -> None:
    content = bytearray(written(tone(1.0), kind, subtype="PCM_16"))
    whole = decode(bytes(content))[0]
    place = content.index(name) + len(name) + (8 if kind == "RF64" else 0)
    for size in sizes:
        content[place : place + struct.calcsize(form)] = struct.pack(form, size)
        np.testing.assert_array_equal(decode(bytes(content))[0], whole, str(size))


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "FLAC", "OGG", "MP3"])
def test_tags_in_front_are_no_sound(kind: str) -> None:
    tag = b"ID3\x04\0\0\0\0\x01\x00" + b"x" * 128
    content = written(tone(1.0), kind)
    np.testing.assert_array_equal(decode(tag + content)[0], decode(content)[0])


@pytest.mark.parametrize("promised", [1, 1000, 15999])
def test_flac_that_holds_more_than_it_promises_is_read_to_its_end(promised: int) -> None:
    content = bytearray(written(tone(1.0), "FLAC"))
    whole = decode(bytes(content))[0]
    content[22:26] = promised.to_bytes(4, "big")
    np.testing.assert_array_equal(decode(bytes(content))[0], whole)
    content[22:26] = (16001).to_bytes(4, "big")
    with pytest.raises(AudioError, match="ends after 16000 of 16001 samples"):
        decode(bytes(content))


@pytest.mark.parametrize("rest", [b"TAG" + bytes(125), bytes(5000), b"\xff" * 900, b"words " * 99])
def test_what_lies_behind_a_whole_flac_file_is_no_sound(rest: bytes) -> None:
    content = written(tone(1.0), "FLAC")
    np.testing.assert_array_equal(decode(content + rest)[0], decode(content)[0])


def test_an_mp3_stream_that_was_joined_late_is_read_from_its_first_frame() -> None:
    content = mp3(tone(2.0), with_count=False)
    whole = decode(content)[0]
    assert 0 <= len(whole) - len(decode(content[33:])[0]) <= 2 * 576
    np.testing.assert_array_equal(decode(bytes(700) + content)[0], whole)


def test_an_empty_wav_with_notes_behind_it_is_empty() -> None:
    content = written(np.empty(0, np.int16), "WAV") + b"LIST\4\0\0\0INFO"
    with pytest.raises(EmptyAudio, match="holds no samples"):
        decode(content)


def test_a_size_beyond_the_end_is_a_file_cut_short() -> None:
    with pytest.raises(AudioError, match="ends after 32000 of 32002 bytes of samples; the file is"):
        decode(wav(size=32002))


def test_samples_that_the_header_does_not_know_of_are_told() -> None:
    with pytest.raises(AudioError, match="22000 bytes follow the 10000 that its header knows of"):
        decode(wav(size=10000))
    notes = b"LIST" + struct.pack("<I", 5000) + b"INFO" + bytes(4996)
    for leftover in (notes, bytes(5000), b"TAG" + b"x" * 4000, b"\r\n", notes + bytes(4096)):
        np.testing.assert_array_equal(decode(wav() + leftover)[0], decode(wav())[0])


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "W64", "RF64", "NIST"])
def test_joined_files_of_plain_samples_are_refused(kind: str) -> None:
    content = written(tone(1.0), kind, subtype="PCM_16")
    with pytest.raises(AudioError, match=f"is joined to it at byte {len(content)}, which"):
        decode(content + content)


@pytest.mark.parametrize("bits", ["PCM_16", "PCM_24"])
def test_joined_flac_files_are_all_read(tmp_path: Path, bits: str) -> None:
    parts = [written(tone(seconds, seed=5), "FLAC", subtype=bits) for seconds in (1.0, 2.0, 0.5)]
    (tmp_path / "a.flac").write_bytes(b"".join(parts))
    expected = np.concatenate([decode(part)[0] for part in parts])
    np.testing.assert_array_equal(decode(tmp_path / "a.flac")[0], expected)


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    content = bytearray(written(tone(2.0), "FLAC", subtype="PCM_16"))
    whole = decode(bytes(content))[0]
    content[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    for source in (bytes(content), tmp_path / "a.flac"):
        np.testing.assert_array_equal(decode(source)[0], whole)
    np.testing.assert_array_equal(decode(bytes(content) * 2)[0], np.tile(whole, 2))
    with pytest.raises(AudioError, match="lost sync"):
        decode(bytes(content[:-100]))


def test_mp3_in_wav_is_read_as_mp3_is() -> None:
    frames = mp3(tone(2.0), with_count=False)
    codec = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE_HZ, 4000, 1, 0, 12, 1, 2, 288, 1, 1393)
    body = b"WAVEfmt " + struct.pack("<I", len(codec)) + codec
    body += b"data" + struct.pack("<I", len(frames)) + frames
    content = b"RIFF" + struct.pack("<I", len(body)) + body
    np.testing.assert_array_equal(decode(content)[0], decode(frames)[0])
    with pytest.raises(AudioError, match="the file is cut short"):
        decode(content[:-50])


def test_kinds_without_a_header_go_by_their_name(tmp_path: Path) -> None:
    frame = b"\xd2" + bytes(32)
    (tmp_path / "a.gsm").write_bytes(frame * 50)
    samples, rate = decode(tmp_path / "a.gsm")
    assert (len(samples), rate) == (50 * 160, 8000)
    (tmp_path / "a.gsm").write_bytes(frame * 50 + frame[:7])
    with pytest.raises(AudioError, match="its last frame holds 7 of 33 bytes; the file is cut"):
        decode(tmp_path / "a.gsm")
    (tmp_path / "a.gsm").write_bytes(b"words, no sound")
    with pytest.raises(AudioError, match="byte 0 begins no frame of GSM 6.10"):
        decode(tmp_path / "a.gsm")


@pytest.mark.parametrize("name", ["a.raw", "a.au", "a.snd", "a.wav", "a.mp4", "a.mp3", "a.ogg"])
def test_words_are_no_sound_whatever_their_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("words, no sound. " * 100)
    with pytest.raises(AudioError, match=f"{name}: cannot be decoded: Format not recognised"):
        decode(tmp_path / name)
