"""The features of distillery/data/features.py without PyTorch, for what is served.

A process that serves an exported student starts faster, and one vectorised transform of all frames
takes half the time of PyTorch's. Both give the same numbers but for rounding; a test compares them.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

from distillery.data.feature_constants import (
    LOG_FLOOR,
    PRIOR_FRAMES,
    PRIOR_VARIANCE,
    VARIANCE_FLOOR,
)
from distillery.params.models import FeatureParams

BLOCK_FRAMES = 2048
"""Frames transformed at once: a recording of an hour would need gigabytes otherwise."""


class NumpyLogMel:
    """Turn one waveform into normalised log-mel features, as `LogMel` does."""

    def __init__(self, params: FeatureParams, sample_rate_hz: int) -> None:
        self.normalise = params.normalise
        self.hop_samples = round(params.hop_seconds * sample_rate_hz)
        window = round(params.window_seconds * sample_rate_hz)
        self.size = 2 ** math.ceil(math.log2(window))
        front = (self.size - window) // 2
        # Hann's window, periodic, in the middle of the transform's frame.
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        self.window = np.pad(hann, (front, self.size - window - front)).astype(np.float32)
        self.filters = mel_filters(self.size // 2 + 1, params.num_mels, sample_rate_hz)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Return the features `(feature_frames, mels)`, float32, of a waveform `(samples,)`."""
        padded = np.pad(waveform, self.size // 2)
        frames = sliding_window_view(padded, self.size)[:: self.hop_samples]
        blocks = [
            self._logs(frames[start : start + BLOCK_FRAMES])
            for start in range(0, len(frames), BLOCK_FRAMES)
        ]
        logs = np.concatenate(blocks)  # (feature_frames, mels)
        if self.normalise == "running":
            return _normalised_so_far(logs)
        axes = (0, 1) if self.normalise == "level" else (0,)
        centred = logs - logs.mean(axis=axes)
        variance = np.square(centred).mean(axis=axes)
        normalised: np.ndarray = centred / np.sqrt(variance + np.float32(VARIANCE_FLOOR))
        return normalised

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


def _normalised_so_far(logs: np.ndarray) -> np.ndarray:
    """Return what RunningNormaliser of data/normalisation.py gives, which explains it."""
    shifted = (logs - logs[0]).astype(np.float64)
    counts = PRIOR_FRAMES + np.arange(1, len(logs) + 1, dtype=np.float64)[:, None]
    means = shifted.cumsum(axis=0) / counts
    squares = (PRIOR_FRAMES * PRIOR_VARIANCE + np.square(shifted).cumsum(axis=0)) / counts
    normalised = (shifted - means) / np.sqrt(squares - np.square(means) + VARIANCE_FLOOR)
    result: np.ndarray = normalised.astype(np.float32)
    return result
