"""How loud a recording is, how much of it is clipped, offset or silent.

Figures are those of int16 samples. What a recording was before it became that, such as floats in
the scale of integers, shows in how much of it is at full scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FULL_SCALE = 32768.0
CLIPPED_AT = 32767
LOWEST_DBFS = -100.0
"""What digital silence counts as."""
FRAME_SECONDS = 0.02
SILENT_DBFS = -65.0
"""Below this a frame is silent: `prepare.min_level_db`, by default, for whole recordings."""
OVERDRIVEN = 0.8
"""Share of the samples that are not 0, at full scale, from which on nothing else can be heard."""


@dataclass(frozen=True)
class Levels:
    """What one recording's samples are like."""

    level_dbfs: float = LOWEST_DBFS
    """RMS in decibels below full scale, as it is, a constant offset included."""
    sound_dbfs: float = LOWEST_DBFS
    """The same around the mean: of what can be heard."""
    clipped_fraction: float = 0.0
    """Share of the samples at either end of their range."""
    dc_offset: float = 0.0
    """Mean of the samples; full scale is 1."""
    silent_fraction: float = 1.0
    """Share of the frames of 20 ms whose sound is below −65 dB."""


def measure(samples: np.ndarray, sample_rate_hz: int) -> Levels:
    """Return what int16 samples `(samples,)` are like."""
    if not len(samples):
        return Levels()
    # Whole numbers: every machine gives the same sums. BLAS would wake threads for it.
    energy = int(np.einsum("i,i->", samples, samples, dtype=np.int64))
    mean = int(samples.sum(dtype=np.int64)) / len(samples)
    return Levels(
        level_dbfs=_decibels(energy / len(samples)),
        sound_dbfs=_decibels(energy / len(samples) - mean * mean),
        clipped_fraction=clipped_fraction(samples),
        dc_offset=mean / FULL_SCALE,
        silent_fraction=_silent_fraction(samples, mean, sample_rate_hz),
    )


def level_dbfs(samples: np.ndarray) -> float:
    """Return the RMS of int16 samples `(samples,)` in decibels below full scale, -100 at least."""
    energy = int(np.einsum("i,i->", samples, samples, dtype=np.int64))
    return _decibels(energy / len(samples) if len(samples) else 0.0)


def clipped_fraction(samples: np.ndarray) -> float:
    """Return the share of int16 samples `(samples,)` at either end of their range."""
    return _num_clipped(samples) / len(samples) if len(samples) else 0.0


def overdriven_fraction(samples: np.ndarray) -> float:
    """Return the share of int16 samples `(samples,)` at either end, digital silence left out."""
    return _num_clipped(samples) / max(1, int(np.count_nonzero(samples)))


def _num_clipped(samples: np.ndarray) -> int:
    # As unsigned numbers the two ends are neighbours: one comparison instead of two.
    ends = samples.astype(np.int16, copy=False).view(np.uint16) - np.uint16(CLIPPED_AT) < 2
    return int(np.count_nonzero(ends))


def _decibels(power: float) -> float:
    """Return the level of a mean square of int16 samples."""
    lowest = (FULL_SCALE * 10 ** (LOWEST_DBFS / 20)) ** 2
    return 10 * math.log10(max(power, lowest) / FULL_SCALE**2)


def _silent_fraction(samples: np.ndarray, mean: float, sample_rate_hz: int) -> float:
    length = max(1, min(len(samples), round(FRAME_SECONDS * sample_rate_hz)))
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    squares = np.einsum("ij,ij->i", frames, frames, dtype=np.int64)  # (frames,)
    sums = frames.sum(axis=1, dtype=np.int64)  # (frames,)
    powers = squares / length - 2 * mean * (sums / length) + mean * mean
    limit = (FULL_SCALE * 10 ** (SILENT_DBFS / 20)) ** 2
    return float(np.count_nonzero(powers < limit)) / len(frames)
