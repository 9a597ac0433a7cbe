"""The mel filters of Kaldi's features, and how many samples its windows and hops have.

Source: feat/mel-computations.cc and feat/feature-window.h of Kaldi's sources.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

LOW_FREQUENCY_HZ = 20.0
HIGH_FREQUENCY_MARGIN_HZ = 400.0
"""The highest filter ends so far below half the sample rate."""
Samples = TypeVar("Samples", int, np.ndarray)


def kaldi_samples(seconds: float, sample_rate_hz: int) -> int:
    """Return the samples of a window or hop: cut off, as Kaldi does, not rounded."""
    milliseconds = np.float32(1000 * seconds)
    return max(1, int(np.float32(sample_rate_hz) * np.float32(0.001) * milliseconds))


def kaldi_frames(num_samples: Samples, hop_samples: int) -> Samples:
    """Return the frames of a waveform, or of many, `(utterances,)`; 1 at least.

    Kaldi has none for less than half a hop.
    """
    found = (num_samples + hop_samples // 2) // hop_samples
    if not isinstance(found, np.ndarray):
        return max(1, found)
    return found.clip(1)


def transform_size(window_samples: int) -> int:
    """Return the length of the Fourier transform of a window: the next power of two."""
    return 1 << (window_samples - 1).bit_length()


def kaldi_filters(num_mels: int, size: int, sample_rate_hz: int) -> np.ndarray:
    """Return the triangular filters `(bins, mels)`, float32, equally wide in mels, of height 1.

    A filter too narrow to meet a bin of the transform is all zeros; see `empty_filters`.

    Args:
        num_mels: how many.
        size: length of the Fourier transform; it has `size / 2 + 1` bins, of which Kaldi leaves
            the last one out.
        sample_rate_hz: of the audio.
    """
    highest = sample_rate_hz / 2 - HIGH_FREQUENCY_MARGIN_HZ
    lower, upper = _mels(np.array([LOW_FREQUENCY_HZ, highest]))
    edges = np.linspace(lower, upper, num_mels + 2)  # (mels + 2,)
    bins = _mels(np.arange(size // 2 + 1) * sample_rate_hz / size)[:, None]  # (bins, 1)
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    filters[-1] = 0
    return filters


def empty_filters(num_mels: int, window_seconds: float, sample_rate_hz: int) -> int:
    """Return how many filters meet no bin of the transform: Kaldi refuses to work with any."""
    size = transform_size(kaldi_samples(window_seconds, sample_rate_hz))
    return int((kaldi_filters(num_mels, size, sample_rate_hz).max(axis=0) <= 0).sum())


def most_mels(window_seconds: float, sample_rate_hz: int, at_most: int) -> int:
    """Return the largest number of mel bands, up to a limit, of which none is empty."""
    fitting = (
        n for n in range(at_most, 0, -1) if not empty_filters(n, window_seconds, sample_rate_hz)
    )
    return next(fitting, 0)


def _mels(hertz: np.ndarray) -> np.ndarray:
    mels: np.ndarray = 1127 * np.log1p(hertz / 700)
    return mels
