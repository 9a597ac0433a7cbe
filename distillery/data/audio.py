"""Recordings into int16 samples at one rate: decode to the end, one channel, resample."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from distillery.data.decoding.blocks import read_blocks
from distillery.data.decoding.channels import SAMPLE_SCALE, Mixer, to_int16
from distillery.data.decoding.containers import UNKNOWN_LENGTH_BYTES
from distillery.data.resampling import resample
from distillery.errors import AudioError, EmptyAudio

__all__ = ["SAMPLE_SCALE", "UNKNOWN_LENGTH_BYTES", "resample", "to_int16"]

SECONDS_PER_HOUR = 3600
_SUFFIXES_OF_LIBSNDFILE = (
    "aif aifc aiff au avr bwf caf flac gsm htk iff ircam mp1 mp2 mp3 mpga nist oga ogg opus paf "
    "pvf rf64 sd2 sds sf snd sph svx voc vox w64 wav wave wve"
)
_SUFFIXES_OF_FFMPEG = (
    "3g2 3gp aac ac3 amr ape asf avi flv m4a m4b m4v mka mkv mov mp4 mpeg mpg mts tta webm wma wmv "
    "wv"
)
"""What the extra `media` reads."""
AUDIO_SUFFIXES = tuple(
    sorted(f".{name}" for name in f"{_SUFFIXES_OF_LIBSNDFILE} {_SUFFIXES_OF_FFMPEG}".split())
)
"""Names of recordings, for whoever searches a folder."""
LOW_BYTES_PER_SECOND = 4000
"""Of recordings that tell no length: they are taken for longer rather than for shorter ones."""
MAX_HEADER_SECONDS = 1e6
"""Longer recordings have a header that does not know their length."""
MAX_CHANNELS = 8
"""Of recordings whose length is limited, too: compressed silence could have any number."""


@dataclass(frozen=True)
class Audio:
    """A recording, decoded."""

    samples: np.ndarray
    """int16 `(samples,)`."""
    rate_hz: int
    caution: str | None = None
    """What is wrong with its channels: a sentence without its name."""
    seconds: float = 0.0
    """How long the recording is, also where its samples were not kept."""


def compute_num_samples(duration_seconds: float, sample_rate_hz: int) -> int:
    """Return the number of samples nearest to a duration."""
    return round(duration_seconds * sample_rate_hz)


def find_audio(folder: Path) -> list[Path]:
    """Return the recordings in a folder and below, in order, by their names; none hidden."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")  # such as ._a.wav, macOS's notes about a.wav
        and not os.path.isdir(path)  # noqa: PTH112 (raises nothing where access is denied)
    )


def estimate_seconds(path: Path) -> float:
    """Return how long a recording is by its header, or else by its size; 0 where there is none."""
    if not os.path.isfile(path):  # noqa: PTH113 (a pipe would be waited for)
        return 0.0
    try:
        seconds = float(soundfile.info(os.fsencode(path)).duration)
    except Exception:  # whatever is wrong with it, decoding says so
        seconds = math.inf
    if seconds < MAX_HEADER_SECONDS:
        return seconds
    try:
        return path.stat().st_size / LOW_BYTES_PER_SECOND
    except OSError:
        return 0.0


class Reader:
    """A recording's blocks of one channel, and what was seen when the last one was read."""

    def __init__(self, source: Path | bytes, name: str | None, channel: int | None = None) -> None:
        """Name a recording; nothing is opened yet.

        Args:
            source: path of a recording of any kind that libsndfile or PyAV reads, or its bytes.
            name: how errors call it; the path by default.
            channel: the one to take, from 0 on; None mixes all.
        """
        self.name = name or (str(source) if isinstance(source, Path) else "audio")
        self._source = source
        self._mixer = Mixer(self.name, channel)

    def blocks(self, max_seconds: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
        """Yield int16 `(samples,)` and their rate in hertz, block by block, to the end.

        Args:
            max_seconds: a longer recording is refused, whatever its header says, before the rest
                of it is decoded.

        Raises:
            EmptyAudio: the recording holds no bytes, or no samples.
            AudioError: it is missing, cannot be decoded to its end, is cut short or too long, or
                holds numbers that are not finite.
        """
        num_samples = 0
        for block, rate in read_blocks(self._source, self.name):
            channels = block.shape[1]
            if max_seconds is not None and channels > MAX_CHANNELS:
                raise AudioError(
                    f"{self.name}: {channels} channels, expected {MAX_CHANNELS} at most"
                )
            num_samples += len(block)
            if max_seconds is not None and num_samples > max_seconds * rate:
                raise AudioError(
                    f"{self.name}: longer than {max_seconds:g} s, expected that at most"
                )
            yield self._mixer.mix(block, rate), rate
        if not num_samples:
            raise EmptyAudio(f"{self.name}: holds no samples; expected speech")

    @property
    def caution(self) -> str | None:
        """What is wrong with the channels; None: nothing, or not read to the end."""
        return self._mixer.caution


def read_audio(
    source: Path | bytes,
    name: str | None = None,
    max_seconds: float | None = None,
    channel: int | None = None,
    keep_seconds: float = math.inf,
) -> Audio:
    """Return a recording in one channel.

    The whole file is decoded: a header in order proves nothing about what follows it.

    Args:
        source: as of `Reader`.
        name: how errors call it; the path by default.
        max_seconds: as of `Reader.blocks`.
        channel: as of `Reader`.
        keep_seconds: a longer recording is decoded to its end without keeping samples.

    Raises:
        AudioError: as `Reader.blocks`.
    """
    reader = Reader(source, name, channel)
    found: list[np.ndarray] = []
    num_samples = rate_hz = 0
    for block, rate_hz in reader.blocks(max_seconds):
        num_samples += len(block)
        if num_samples > keep_seconds * rate_hz:
            found.clear()
        else:
            found.append(block)
    samples = found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.int16), *found])
    return Audio(samples, rate_hz, reader.caution, num_samples / rate_hz)


def decode(
    source: Path | bytes, name: str | None = None, max_seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Return a recording's samples, int16 `(samples,)`, channels mixed, and its rate in hertz.

    Raises:
        AudioError: as `read_audio`.
    """
    audio = read_audio(source, name, max_seconds)
    return audio.samples, audio.rate_hz


def waveform_at(audio: Audio, sample_rate_hz: int) -> np.ndarray:
    """Return a recording as float32 `(samples,)` in [-1, 1) at the rate asked for."""
    return as_waveform(resample(audio.samples, audio.rate_hz, sample_rate_hz))


def as_waveform(samples: np.ndarray) -> np.ndarray:
    """Return samples as float32 in [-1, 1): int16 ones divided, others as they are."""
    if samples.dtype != np.int16:
        return samples
    return samples.astype(np.float32) / np.float32(SAMPLE_SCALE)


def load_audio(
    source: Path | bytes,
    sample_rate_hz: int,
    name: str | None = None,
    max_seconds: float | None = None,
) -> np.ndarray:
    """Return a recording as float32 `(samples,)` in [-1, 1) at the rate asked for.

    Raises:
        AudioError: as `read_audio`.
    """
    return waveform_at(read_audio(source, name, max_seconds), sample_rate_hz)
