"""The log-mel features of distillery/data/features.py without PyTorch, for what is served.

A process that serves an exported student starts faster, and one vectorised transform of all frames
takes half the time of PyTorch's. Both give the same numbers but for rounding; a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

from distillery.data.audio import as_waveform
from distillery.data.feature_constants import LOG_FLOOR
from distillery.params.models import FeatureParams
from distillery.serve.normalised_features import NumpyFeatures

BLOCK_FRAMES = 2048
"""Frames transformed at once: a recording of an hour would need gigabytes otherwise."""


class NumpyLogMel(NumpyFeatures):
    """Turn one waveform into normalised log-mel features, as `LogMel` does."""

    def __init__(self, params: FeatureParams, sample_rate_hz: int) -> None:
        super().__init__(params)
        self.hop_samples = round(params.hop_seconds * sample_rate_hz)
        window = round(params.window_seconds * sample_rate_hz)
        self.size = 2 ** math.ceil(math.log2(window))
        front = (self.size - window) // 2
        # Hann's window, periodic, in the middle of the transform's frame.
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        self.window = np.pad(hann, (front, self.size - window - front)).astype(np.float32)
        self.filters = mel_filters(self.size // 2 + 1, params.num_mels, sample_rate_hz)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of feature frames of a waveform."""
        return num_samples // self.hop_samples + 1

    def _blocks(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Yield log-mel energies `(feature_frames, mels)` of `(samples,)`, float or int16."""
        half, num_frames = self.size // 2, self.num_frames(len(samples))
        for start in range(0, num_frames, BLOCK_FRAMES):
            last = min(start + BLOCK_FRAMES, num_frames) - 1
            begin, end = start * self.hop_samples - half, last * self.hop_samples + half
            part = as_waveform(samples[max(0, begin) : max(0, end)])
            # Zeros stand before the start and behind the end.
            part = np.pad(part, (max(0, -begin), max(0, end - len(samples))))
            yield self._logs(sliding_window_view(part, self.size)[:: self.hop_samples])

    def _logs(self, frames: np.ndarray) -> np.ndarray:
        """Return log-mel energies `(feature_frames, mels)` of `(feature_frames, samples)`."""
        spectrum = scipy.fft.rfft(frames * self.window, axis=-1)  # (feature_frames, bins)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        logs: np.ndarray = np.log(power @ self.filters + np.float32(LOG_FLOOR))
        return logs


def mel_filters(num_bins: int, num_mels: int, sample_rate_hz: int) -> np.ndarray:
    """Return triangular filters `(bins, mels)`, equally spaced in mels, each of height 1.

    Source: the HTK Book, section 5.6: mel(f) = 2595 log10(1 + f / 700).
    """
    bins = np.linspace(0, sample_rate_hz // 2, num_bins)
    highest = 2595 * np.log10(1 + sample_rate_hz // 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, highest, num_mels + 2) / 2595) - 1)  # (mels + 2,)
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return filters
