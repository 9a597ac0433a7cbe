"""Recordings into int16 samples at one rate: decode to the end, mix down, resample."""

from __future__ import annotations

import io
import math
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from distillery.errors import AudioError, EmptyAudio

SECONDS_PER_HOUR = 3600
SAMPLE_SCALE = 32768.0
"""What int16 samples are divided by for a waveform in [-1, 1)."""
AUDIO_SUFFIXES = (".flac", ".mp3", ".ogg", ".wav")
UNKNOWN_LENGTH_BYTES = 0x7FFF0000
MAX_CHANNELS = 8
"""Of recordings whose length is limited, too: compressed silence could have any number."""
MAX_KERNEL_SIZE = 2**26
"""Numbers in a resampler's table, which rates without a large common divisor let grow."""


def compute_num_samples(duration_seconds: float, sample_rate_hz: int) -> int:
    """Return the number of samples nearest to a duration."""
    return round(duration_seconds * sample_rate_hz)


def decode(
    source: Path | bytes, name: str | None = None, max_seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Return a recording's samples, mixed down to one channel, and its rate in hertz.

    The whole file is decoded: a header in order proves nothing about what follows it.

    Args:
        source: path of a WAV, FLAC, OGG or MP3 file, or such a file's bytes.
        name: how errors call it; the path by default.
        max_seconds: a longer recording is refused, whatever its header says, before the rest of it
            is decoded.

    Returns:
        int16 samples `(samples,)` and the sample rate.

    Raises:
        EmptyAudio: the file holds no bytes, or no samples.
        AudioError: the file is missing, cannot be decoded to its end, is too long, holds numbers
            that are not finite, or fewer samples than its header promises.
    """
    name = name or (str(source) if isinstance(source, Path) else "audio")
    if isinstance(source, Path) and not source.is_file():
        raise AudioError(f"{name}: no such file")
    if not (source.stat().st_size if isinstance(source, Path) else len(source)):
        raise EmptyAudio(f"{name}: holds 0 bytes; expected a recording")
    try:
        with soundfile.SoundFile(
            # soundfile refuses names that are no text, unless it gets their bytes.
            io.BytesIO(source) if isinstance(source, bytes) else os.fsencode(source)
        ) as file:
            promised, rate = _promised_samples(file), file.samplerate
            is_pcm16 = file.subtype == "PCM_16"
            limit = -1 if max_seconds is None else _limit_samples(file, max_seconds, name)
            dtype = "int16" if is_pcm16 else "float32"
            samples = file.read(limit, dtype=dtype, always_2d=True)
    except soundfile.LibsndfileError as error:  # its str() would name the path
        raise AudioError(f"{name}: cannot be decoded: {error.error_string}") from None
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise AudioError(f"{name}: cannot be decoded: {error}") from None
    if not len(samples):
        raise EmptyAudio(f"{name}: holds no samples; expected speech")
    if len(samples) == limit:
        raise AudioError(f"{name}: longer than {max_seconds:g} s, expected that at most")
    if len(samples) < promised:
        raise AudioError(
            f"{name}: ends after {len(samples)} of {promised} samples; the file is cut short"
        )
    if not is_pcm16 and not np.isfinite(samples).all():
        raise AudioError(f"{name}: holds samples that are not finite numbers")
    is_mono = samples.shape[1] == 1
    samples = samples[:, 0] if is_mono else samples.mean(axis=1, dtype=np.float32)  # (samples,)
    if samples.dtype != np.int16:
        samples = to_int16(samples if not is_pcm16 else samples / np.float32(SAMPLE_SCALE))
    return samples, rate


def _limit_samples(file: soundfile.SoundFile, max_seconds: float, name: str) -> int:
    """Return how many samples are one too many."""
    if file.channels > MAX_CHANNELS:
        raise AudioError(f"{name}: {file.channels} channels, expected {MAX_CHANNELS} at most")
    return int(max_seconds * file.samplerate) + 1


def _promised_samples(file: soundfile.SoundFile) -> int:
    """Return how many samples the header promises.

    For a WAV file that was cut short, libsndfile counts what is there and notes the difference in
    its log. Sizes near 2 or 4 GiB are what programs write that stream and never know the length.
    """
    log = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if log is None or int(log[1]) >= UNKNOWN_LENGTH_BYTES or int(log[1]) <= int(log[2]):
        return int(file.frames)
    return int(file.frames * int(log[1]) / int(log[2])) if int(log[2]) else int(log[1])


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Return float samples in [-1, 1) as int16, rounded to the nearest, clipped at full scale."""
    scaled = np.rint(waveform * np.float32(SAMPLE_SCALE))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def resample(samples: np.ndarray, rate_hz: int, target_hz: int, name: str = "audio") -> np.ndarray:
    """Return int16 samples `(samples,)` at another rate (windowed sinc, torchaudio's kernel).

    Args:
        samples: int16 `(samples,)`.
        rate_hz: their rate.
        target_hz: the rate wanted.
        name: how errors call them.

    Raises:
        AudioError: the rates have no divisor in common that makes this feasible.
    """
    if rate_hz == target_hz:
        return samples
    common = math.gcd(rate_hz, target_hz)
    if (rate_hz // common) * (target_hz // common) > MAX_KERNEL_SIZE:
        raise AudioError(
            f"{name}: at {rate_hz} Hz, which cannot be resampled to {target_hz} Hz; expected a "
            "usual rate such as 16000, 44100 or 48000 Hz"
        )
    import torch  # waits here: it takes a second, and most audio has the right rate

    waveform = torch.from_numpy(samples.astype(np.float32) / np.float32(SAMPLE_SCALE))
    return to_int16(_resampler(rate_hz, target_hz)(waveform).numpy())


@lru_cache(maxsize=8)
def _resampler(rate_hz: int, target_hz: int) -> Any:
    import torchaudio

    return torchaudio.transforms.Resample(rate_hz, target_hz)


def load_audio(
    source: Path | bytes,
    sample_rate_hz: int,
    name: str | None = None,
    max_seconds: float | None = None,
) -> np.ndarray:
    """Return a recording as float32 `(samples,)` in [-1, 1) at the rate asked for.

    Raises:
        AudioError: as `decode` and `resample`.
    """
    return as_waveform(load_samples(source, sample_rate_hz, name, max_seconds))


def load_samples(
    source: Path | bytes,
    sample_rate_hz: int,
    name: str | None = None,
    max_seconds: float | None = None,
) -> np.ndarray:
    """Return a recording as int16 `(samples,)` at the rate asked for: half the memory of floats.

    Raises:
        AudioError: as `decode` and `resample`.
    """
    name = name or (str(source) if isinstance(source, Path) else "audio")
    samples, rate = decode(source, name, max_seconds)
    return resample(samples, rate, sample_rate_hz, name)


def as_waveform(samples: np.ndarray) -> np.ndarray:
    """Return samples as float32 in [-1, 1): int16 ones divided, others as they are."""
    if samples.dtype != np.int16:
        return samples
    return samples.astype(np.float32) / np.float32(SAMPLE_SCALE)
