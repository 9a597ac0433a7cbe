"""Folders of noises and impulse responses, read once, kept in memory: 115 MB an hour at 16 kHz."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillery.data.audio import decode, find_audio, resample
from distillery.data.manifest import audio_key
from distillery.errors import AudioError, CorpusError


@dataclass(frozen=True)
class Sounds:
    """Recordings at one rate."""

    recordings: Sequence[np.ndarray]
    """int16, each `(samples,)`."""
    digest: str
    """SHA-256 of all samples: with other files, a run is another run."""


def read_sounds(folder: Path, sample_rate_hz: int, setting: str) -> Sounds:
    """Read every recording in a folder and below it, in the order of their paths.

    Args:
        folder: holds recordings of any kind; others, such as a licence, are left alone.
        sample_rate_hz: what they are resampled to.
        setting: how errors call the setting that names the folder.

    Raises:
        CorpusError: there is no such folder, or no recording in it.
        AudioError: a recording cannot be decoded, or is silent.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise CorpusError(
            f"{setting}: {str(folder)!r} {found}, expected a folder of recordings; correct the "
            "path, or remove the setting to generate them"
        )
    files = find_audio(folder)
    if not files:
        raise CorpusError(
            f"{setting}: {str(folder)!r} holds no recording, expected WAV, FLAC, OGG or MP3 files "
            "and the like; correct the path, or remove the setting to generate them"
        )
    recordings = [_read(path, sample_rate_hz, setting) for path in files]
    keys = "\n".join(audio_key(recording) for recording in recordings)
    return Sounds(recordings, hashlib.sha256(keys.encode()).hexdigest())


def _read(path: Path, sample_rate_hz: int, setting: str) -> np.ndarray:
    samples, rate = decode(path, f"{setting}: {path}")
    samples = resample(samples, rate, sample_rate_hz)
    if not samples.any():
        raise AudioError(f"{setting}: {path}: is silent, expected sound; remove it")
    return samples
