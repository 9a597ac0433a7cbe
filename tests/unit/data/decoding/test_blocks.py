"""What FFmpeg reads, decoders that fail, and rates and lengths that cannot be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distillery.data.audio import decode, to_int16
from distillery.data.decoding import blocks
from distillery.errors import AudioError
from tests.recordings import media, tone, written

SAMPLES = to_int16(tone(2.0))
MEDIA = (
    ("m4a", "ipod", "aac", {}),
    ("mp4", "mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    ("mp4", "mp4", "alac", {}),
    ("mov", "mov", "pcm_s16le", {}),
    ("3gp", "3gp", "aac", {}),
    ("aac", "adts", "aac", {}),
    ("mkv", "matroska", "flac", {}),
    ("avi", "avi", "pcm_s16le", {}),
    ("ts", "mpegts", "aac", {}),
    ("flv", "flv", "aac", {}),
    ("tta", "tta", "tta", {}),
    ("wv", "wv", "wavpack", {}),
    ("oga", "ogg", "flac", {}),
)


@pytest.mark.parametrize(("suffix", "kind", "codec", "options"), MEDIA)
def test_containers_of_video_are_read_with_the_extra(
    tmp_path: Path, suffix: str, kind: str, codec: str, options: dict[str, str]
) -> None:
    pytest.importorskip("av", reason="PyAV, the extra `media`, is not here")
    content = media(SAMPLES, kind, codec, **options)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    heard, rate = decode(path)
    np.testing.assert_array_equal(decode(content)[0], heard)
    assert rate == 16000
    assert 0 <= len(heard) - len(SAMPLES) < 3 * 1024  # what AAC pads
    offset = int(np.argmax(np.correlate(heard[: 5000 + 2048].astype(float), SAMPLES[:5000])))
    likeness = np.corrcoef(heard[offset : offset + 20000], SAMPLES[:20000])[0, 1]
    assert likeness > 0.97
    for cut in (len(content) - 1, len(content) // 2 + 1, len(content) // 5 + 1):
        try:
            np.testing.assert_array_equal(decode(content[:cut])[0], heard)
        except AudioError:
            continue
        assert cut == len(content) - 1  # some end with a table or a size


@pytest.mark.parametrize(
    ("kind", "codec"), [("ipod", "aac"), ("matroska", "flac"), ("avi", "pcm_s16le")]
)
def test_joined_containers_are_refused(kind: str, codec: str) -> None:
    pytest.importorskip("av", reason="PyAV, the extra `media`, is not here")
    content = media(SAMPLES, kind, codec)
    with pytest.raises(AudioError, match=f"is joined to it at byte {len(content)}, which"):
        decode(content + content)


@pytest.mark.parametrize(("kind", "codec"), [("adts", "aac"), ("mpegts", "aac")])
def test_joined_streams_of_packets_are_all_read(kind: str, codec: str) -> None:
    pytest.importorskip("av", reason="PyAV, the extra `media`, is not here")
    content = media(SAMPLES, kind, codec)
    assert len(decode(content * 2)[0]) >= 2 * len(decode(content)[0]) - 2048


def test_webm_is_read_at_the_rate_of_its_codec() -> None:
    pytest.importorskip("av", reason="PyAV, the extra `media`, is not here")
    samples = to_int16(tone(1.0, 48000))
    heard, rate = decode(media(samples, "webm", "libopus", 48000))
    assert (rate, len(heard) // 4800) == (48000, 10)


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    m4a = b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42"
    with pytest.raises(
        AudioError, match=r"^a\.m4a: a .*; install it \(make install, or pip install 'dist"
    ):
        decode(m4a, "a.m4a")


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><Period/></MPD>",
    ],
    ids=["hls", "concat", "sdp", "dash"],
)
def test_lists_of_other_files_and_addresses_are_no_recordings(content: bytes) -> None:
    with pytest.raises(AudioError, match="cannot be decoded: Format not recognised"):
        decode(content + b" " * 500)


def test_a_video_without_sound_is_named() -> None:
    av = pytest.importorskip("av", reason="PyAV, the extra `media`, is not here")
    import io

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(AudioError, match="a.mkv: holds no audio"):
        decode(buffer.getvalue(), "a.mkv")


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("an odd value"),
        MemoryError(),
        RuntimeError("odd"),
        TypeError("odd"),
        OverflowError("odd"),
        OSError(5, "Input/output error"),
        soundfile.LibsndfileError(3),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_any_failure_of_a_decoder_is_an_error_of_that_file(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Iterator[blocks.Block]:
        yield np.zeros((10, 1), np.int16), 16000
        raise failure

    monkeypatch.setattr(blocks, "_sound_blocks", fail)
    with pytest.raises(AudioError, match=r"^b\.wav: cannot be decoded: "):
        decode(written(SAMPLES, "WAV"), "b.wav")


@pytest.mark.parametrize("rate", [1, 999, 768_001, 10_000_000])
def test_rates_that_no_recording_has_are_refused(rate: int) -> None:
    with pytest.raises(AudioError, match=f"a: at {rate} Hz, expected 1000 to 768000 Hz; correct"):
        decode(written(SAMPLES[:100], "WAV", rate), "a")


def test_codecs_that_cannot_seek_are_read_in_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kinds = (("WAV", "GSM610"), ("AIFF", "GSM610"), ("WAV", "G721_32"), ("AU", "G723_24"))
    for kind, subtype in (*kinds, ("WAV", "NMS_ADPCM_16"), ("AIFF", "DWVW_16")):
        path = tmp_path / f"{kind}-{subtype}.wav"
        path.write_bytes(written(tone(2.0, 8000), kind, 8000, subtype=subtype))
        whole, rate = decode(path)
        assert rate == 8000
        assert abs(len(whole) - 16000) < 400
        with monkeypatch.context() as small:
            small.setattr(blocks, "BLOCK_SAMPLES", 1000)
            np.testing.assert_array_equal(decode(path)[0], whole)


def test_a_block_padded_by_a_byte_is_no_block_of_gsm() -> None:
    """libsndfile takes the byte that makes the number of bytes even for 320 samples."""
    assert len(decode(written(tone(1.0, 8000), "WAV", 8000, subtype="GSM610"))[0]) == 8000
