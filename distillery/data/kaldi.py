"""Kaldi's log filter-bank energies in NumPy, for training and for what is served alike.

They are those that sherpa-onnx computes for the models it runs, by the library kaldi-native-fbank
with these settings; tests compare with both:

    samples in [-1, 1), no dithering        how sherpa-onnx scales, and its default
    frame t centred on hop * (t + 1/2)      `snip_edges: false`: the ends are mirrored
    mean removed, then x_i - 0.97 x_{i-1}   in every frame by itself
    Povey's window                          Hann's to the power of 0.85
    20 Hz up to 400 Hz below the limit      triangles, equally wide in mels, over the power
    ln(max(energy, 2^-23))                  the floor of energy

docs/decisions/0029-runs-elsewhere.md says why the library itself does not run here.

Source: Povey et al. (2011), "The Kaldi speech recognition toolkit"; feat/feature-window.cc and
feat/feature-fbank.cc of its sources.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

from distillery.data.audio import as_waveform
from distillery.data.kaldi_filters import (
    Samples,
    empty_filters,
    kaldi_filters,
    kaldi_frames,
    kaldi_samples,
    most_mels,
    transform_size,
)
from distillery.errors import ModelError
from distillery.params.models import FeatureParams

PREEMPHASIS = 0.97
POVEY_EXPONENT = 0.85
ENERGY_FLOOR = 2.0**-23
BLOCK_FRAMES = 256
"""Frames transformed at once: what they need stays in a processor's cache."""


class KaldiFilterBank:
    """Turn a waveform into log filter-bank energies, not normalised."""

    def __init__(self, params: FeatureParams, sample_rate_hz: int) -> None:
        """Compute window and filters.

        Raises:
            ModelError: some of so many bands would be empty at this rate.
        """
        self.num_mels = params.num_mels
        self.hop_samples = kaldi_samples(params.hop_seconds, sample_rate_hz)
        self.window_samples = kaldi_samples(params.window_seconds, sample_rate_hz)
        self.first_sample = self.hop_samples // 2 - self.window_samples // 2
        """Where frame 0 begins; negative: that many samples are mirrored."""
        self.size = transform_size(self.window_samples)
        if num_empty := empty_filters(params.num_mels, params.window_seconds, sample_rate_hz):
            raise ModelError(
                f"features: {num_empty} of {params.num_mels} mel bands are empty at "
                f"{sample_rate_hz} Hz, which kaldi_fbank does not take; expected num_mels up to "
                f"{most_mels(params.window_seconds, sample_rate_hz, params.num_mels)}"
            )
        turn = 2 * np.pi * np.arange(self.window_samples) / max(1, self.window_samples - 1)
        self.window = ((0.5 - 0.5 * np.cos(turn)) ** POVEY_EXPONENT).astype(np.float32)
        self.filters = kaldi_filters(params.num_mels, self.size, sample_rate_hz)

    def num_frames(self, num_samples: Samples) -> Samples:
        """Return the number of frames of a waveform, or of many, `(utterances,)`; 1 at least."""
        return kaldi_frames(num_samples, self.hop_samples)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return energies `(feature_frames, mels)`, float32, of `(samples,)`, int16 or float."""
        return np.concatenate(list(self.blocks(samples)))

    def blocks(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the energies `(feature_frames, mels)` of a recording in order, block by block."""
        num_frames = self.num_frames(len(samples))
        for start in range(0, num_frames, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, num_frames)
            begin = self.first_sample + start * self.hop_samples
            end = self.first_sample + (stop - 1) * self.hop_samples + self.window_samples
            yield self.energies(as_waveform(mirrored(samples, begin, end)))

    def energies(self, samples: np.ndarray) -> np.ndarray:
        """Return energies `(feature_frames, mels)` of the windows that begin a hop apart.

        Args:
            samples: `(samples,)`, float32 in [-1, 1); the first window begins with the first one.
        """
        length = self.window_samples
        # Mean and pre-emphasis of all frames at once: (x_i - m) - 0.97 (x_{i-1} - m) is
        # (x_i - 0.97 x_{i-1}) - 0.03 m. A frame's first sample does not matter: the window is 0.
        samples = samples - samples.mean()  # no frame keeps it: sums of small numbers are exact
        emphasised = samples.copy()
        emphasised[1:] -= np.float32(PREEMPHASIS) * samples[:-1]
        sums = np.concatenate([[0.0], np.cumsum(samples, dtype=np.float64)])
        means = ((sums[length:] - sums[:-length]) / length)[:: self.hop_samples]
        shifts = ((1 - PREEMPHASIS) * means).astype(np.float32)[:, None]
        frames = sliding_window_view(emphasised, length)[:: self.hop_samples]
        padded = np.zeros((len(frames), self.size), np.float32)  # (feature_frames, samples)
        np.subtract(frames, shifts, out=padded[:, :length])
        padded[:, :length] *= self.window
        spectrum = scipy.fft.rfft(padded, axis=1)  # (feature_frames, bins)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        logs: np.ndarray = np.log(np.maximum(power @ self.filters, np.float32(ENERGY_FLOOR)))
        return logs


def mirrored(samples: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Return `samples[begin:end]`, where ends may lie outside: the samples go on as in a mirror.

    Args:
        samples: `(samples,)`, one at least.
        begin: index of the first one wanted; may be negative.
        end: index behind the last one; may be larger than there are samples.
    """
    if begin >= 0 and end <= len(samples):
        return samples[begin:end]
    if not len(samples):
        return np.zeros(end - begin, samples.dtype)
    index = np.arange(begin, end) % (2 * len(samples))
    return samples[np.minimum(index, 2 * len(samples) - 1 - index)]


class KaldiStream:
    """Energies of one utterance, frame by frame as its samples arrive."""

    def __init__(self, bank: KaldiFilterBank) -> None:
        self.bank = bank
        self.held = np.zeros(0, np.float32)
        self.held_from = 0  # which sample `held` begins with
        self.num_samples = 0
        self.num_frames = 0

    def push(self, samples: np.ndarray, *, last: bool = False) -> np.ndarray:
        """Return the energies `(new feature_frames, mels)` that these samples settle.

        Args:
            samples: the next ones `(samples,)`, float32 in [-1, 1); there may be none.
            last: whether the utterance ends here.
        """
        bank = self.bank
        self.held = np.concatenate([self.held, samples])
        self.num_samples += len(samples)
        if last:
            num_settled = bank.num_frames(self.num_samples)
        else:  # frames that end by now
            reach = self.num_samples - bank.first_sample - bank.window_samples
            num_settled = reach // bank.hop_samples + 1
        if num_settled <= self.num_frames:
            return np.zeros((0, bank.num_mels), np.float32)
        begin = bank.first_sample + self.num_frames * bank.hop_samples
        end = bank.first_sample + (num_settled - 1) * bank.hop_samples + bank.window_samples
        # What is mirrored is held, but for a hop longer than a window.
        part = mirrored(self.held, begin - self.held_from, end - self.held_from)
        self.num_frames = num_settled
        keep = max(0, bank.first_sample + num_settled * bank.hop_samples - self.held_from)
        dropped = min(keep, len(self.held))
        self.held, self.held_from = self.held[dropped:], self.held_from + dropped
        return bank.energies(part)
