"""The log-mel features of distillery/data/features.py without PyTorch, for what is served.

A process that serves an exported student starts faster, and one vectorised transform of all frames
takes half the time of PyTorch's. Both give the same numbers but for rounding; a test compares them.
"""

from __future__ import annotations

import math

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

    block_frames = BLOCK_FRAMES

    def __init__(self, params: FeatureParams, sample_rate_hz: int) -> None:
        super().__init__(params)
        self.hop_samples = round(params.hop_seconds * sample_rate_hz)
        self.window_samples = window = round(params.window_seconds * sample_rate_hz)
        self.size = 2 ** math.ceil(math.log2(window))
        front = (self.size - window) // 2
        # Hann's window, periodic, in the middle of the transform's frame.
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        self.window = np.pad(hann, (front, self.size - window - front)).astype(np.float32)
        self.filters = mel_filters(self.size // 2 + 1, params.num_mels, sample_rate_hz)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of feature frames of a waveform."""
        return num_samples // self.hop_samples + 1

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        half = self.size // 2
        return start * self.hop_samples - half, (stop - 1) * self.hop_samples + half

    def _logs_between(self, samples: np.ndarray, begin: int, end: int) -> np.ndarray:
        part = as_waveform(samples[max(0, begin) : end])
        # Zeros stand before the start and behind the end.
        return self.logs_of(np.pad(part, (max(0, -begin), max(0, end - len(samples)))))

    def logs_of(self, span: np.ndarray) -> np.ndarray:
        """Return log-mel energies `(feature_frames, mels)` of frames in a row.

        Args:
            span: `(samples,)`, float32, from the first sample of the first transform to the last
                of the last.
        """
        return self._logs_of_frames(sliding_window_view(span, self.size)[:: self.hop_samples])

    def _logs_of_frames(self, frames: np.ndarray) -> np.ndarray:
        """Return log-mel energies `(feature_frames, mels)` of `(feature_frames, samples)`."""
        spectrum = scipy.fft.rfft(frames * self.window, axis=-1)  # (feature_frames, bins)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        logs: np.ndarray = np.log(power @ self.filters + np.float32(LOG_FLOOR))
        return logs


class LogMelSpans:
    """The samples that new log-mel frames read, as an utterance's samples arrive.

    Frame t is centred on sample `t * hop`; it is there once the half of its window behind that
    sample is. Zeros stand before the start and behind the end, as in a whole utterance.
    """

    def __init__(self, size: int, window_samples: int, hop_samples: int) -> None:
        """Begin an utterance.

        Args:
            size: samples of a transform.
            window_samples: samples of the window, in the middle of it.
            hop_samples: from frame to frame.
        """
        self.size, self.hop_samples = size, hop_samples
        start = (size - window_samples) // 2
        self.reach_samples = start + window_samples - size // 2
        self.held = np.zeros(size // 2, np.float32)  # what lies before the first sample
        self.num_unread = 0  # samples to come that no frame reads: hops longer than a window
        self.num_samples = 0
        self.num_frames = 0

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return `(size + (new frames - 1) * hop,)` samples, none where no frame is settled.

        Args:
            samples: the next ones `(samples,)`, float32; there may be none.
            last: whether the utterance ends here.
        """
        self.num_samples += len(samples)
        settled = self.num_samples - (0 if last else self.reach_samples)
        num_new = max(0, settled // self.hop_samples + 1 - self.num_frames)
        self.num_frames += num_new
        held = self._drop(np.concatenate([self.held, samples]), self.num_unread)
        if not num_new:
            self.held = held
            return held[:0]
        length = (num_new - 1) * self.hop_samples + self.size
        self.held = self._drop(held, num_new * self.hop_samples)
        # What is missing lies behind the end, or where the window is 0.
        return np.pad(held, (0, max(0, length - len(held))))[:length]

    def _drop(self, samples: np.ndarray, count: int) -> np.ndarray:
        self.num_unread = max(0, count - len(samples))
        return samples[count:]


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
