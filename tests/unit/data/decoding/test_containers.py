"""Every kind that libsndfile writes, whole and cut at random places, against another decoder."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.audio import decode, to_int16
from distillery.data.decoding.containers import find_extent
from distillery.data.decoding.source import Source
from distillery.errors import AudioError
from tests.recordings import kinds, tone, written

RATE_HZ = 8000
TELL_NO_LENGTH = {"IRCAM", "PAF", "PVF", "XI"}
"""Whose headers hold none: a cut is noticed by nobody."""
LOSSLESS = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_16", "ALAC_24", "ALAC_32"}
READ_OTHERWISE = {"G721_32", "G723_24", "G723_40"}
"""Which FFmpeg reads as relatives of theirs, with other tables."""
KINDS = kinds()


def decoded_by_ffmpeg(content: bytes) -> np.ndarray | None:
    """Return samples in [-1, 1) `(samples,)`, channels mixed; None: FFmpeg does not know it."""
    av = pytest.importorskip("av", reason="the independent decoder is PyAV, which is not here")
    try:
        with av.open(io.BytesIO(content)) as container:
            resampler = av.AudioResampler(format="fltp", rate=RATE_HZ)
            frames = [
                plane.to_ndarray()
                for frame in container.decode(audio=0)
                for plane in resampler.resample(frame)
            ]
    except (av.FFmpegError, IndexError, ValueError):
        return None
    return np.concatenate(frames, axis=1).mean(axis=0) if frames else None


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two decoders' samples, -1 where one has far more than the other.

    Those of lossy kinds round otherwise, and pad by another part of a block.
    """
    common = min(len(first), len(second))
    if max(len(first), len(second)) > common + 1300 or not common:
        return -1.0
    return float(np.corrcoef(first[:common], second[:common])[0, 1])


def test_there_are_many_kinds() -> None:
    assert len(KINDS) > 90
    assert len({container for container, _ in KINDS}) > 20


@pytest.mark.parametrize("num_channels", [1, 2])
def test_whole_files_are_what_another_decoder_finds(num_channels: int) -> None:
    samples = np.stack([tone(0.5, RATE_HZ, seed) for seed in range(num_channels)], axis=1)
    num_compared = 0
    for container, subtype in KINDS:
        try:
            content = written(samples, container, RATE_HZ, subtype=subtype)
        except soundfile.LibsndfileError:  # one channel at most
            continue
        heard, rate = decode(content, f"{container} {subtype}")
        assert rate == (44100 if container == "XI" else RATE_HZ)  # it holds none
        mixed = to_int16(samples.mean(axis=1))
        if subtype in LOSSLESS and container != "SDS":  # libsndfile writes its last packet empty
            assert np.abs(heard.astype(int) - mixed).max() <= 1, (container, subtype)
        assert likeness(heard, mixed) > 0.95, (container, subtype)
        other = decoded_by_ffmpeg(content)
        if other is None or subtype in READ_OTHERWISE:
            continue
        num_compared += 1
        assert likeness(heard, other) > 0.98, (container, subtype)
    assert num_compared > (60 if num_channels == 1 else 50)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    seconds=st.floats(0.1, 0.6),
    seed=st.integers(0, 9),
    shares=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
)
def test_files_cut_anywhere_are_refused_or_whole(
    seconds: float, seed: int, shares: list[float]
) -> None:
    samples = tone(seconds, RATE_HZ, seed)
    for container, subtype in KINDS:
        content = written(samples, container, RATE_HZ, subtype=subtype)
        whole, _ = decode(content)
        places = [max(1, round(share * (len(content) - 1))) for share in shares]
        for place in places:
            try:
                heard, _ = decode(content[:place])
            except AudioError:
                continue
            what = (container, subtype, place, len(content))
            if container in TELL_NO_LENGTH:
                assert len(heard) <= len(whole), what
                np.testing.assert_array_equal(heard[:-10], whole[: len(heard)][:-10])
            else:
                np.testing.assert_array_equal(heard, whole, str(what))


def test_a_file_on_the_disk_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    for container, subtype in KINDS:
        content = written(tone(0.3, RATE_HZ), container, RATE_HZ, subtype=subtype)
        path = tmp_path / f"{container}-{subtype}.{container.lower()}"
        path.write_bytes(content)
        np.testing.assert_array_equal(decode(path)[0], decode(content)[0], str(path))
        path.write_bytes(content[: len(content) // 3])
        try:
            decode(path)
        except AudioError:
            continue
        assert container in TELL_NO_LENGTH, path


def test_sound_designers_files_are_read_with_the_file_beside_them(tmp_path: Path) -> None:
    samples = to_int16(tone(0.5, RATE_HZ))
    soundfile.write(tmp_path / "a.sd2", samples, RATE_HZ, format="SD2", subtype="PCM_16")
    np.testing.assert_array_equal(decode(tmp_path / "a.sd2")[0], samples)


@pytest.mark.parametrize("cut", [1, 2, 5, 11, 30])
def test_headers_that_are_cut_are_no_error_here(cut: int) -> None:
    for container, subtype in KINDS:
        content = written(tone(0.1, RATE_HZ), container, RATE_HZ, subtype=subtype)[:cut]
        find_extent(Source("a", len(content), content))


def test_sizes_of_plain_samples_are_those_of_the_header() -> None:
    content = written(tone(1.0, RATE_HZ), "WAV", RATE_HZ, subtype="PCM_16")
    extent = find_extent(Source("a", len(content), content))
    assert extent is not None
    assert (extent.start, extent.size) == (44, 16000)
    sphere = b"NIST_1A\n   1024\nsample_count -i 5\nsample_n_bytes -i 2\nend_head\n".ljust(1024)
    extent = find_extent(Source("a", len(sphere), sphere))
    assert extent is not None
    assert (extent.start, extent.size) == (1024, 10)
    large = b"RF64" + b"\xff" * 4 + b"WAVEds64" + struct.pack("<I3QI", 28, 0, 77, 0, 0)
    large += b"data" + b"\xff" * 4
    extent = find_extent(Source("a", len(large), large))
    assert extent is not None
    assert extent.size == 77
