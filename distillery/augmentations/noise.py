"""Additive noise at a drawn signal-to-noise ratio, from recordings or generated.

y = x + a·n with a so that 10·log10(Σx² / Σ(a·n)²) is the ratio, over the whole utterance. Generated
noise is Gaussian with a power spectrum ∝ 1/f^β (Timmer & König, 1995), β from 0, white, to 2,
brown. It is generated once, as if it had been recorded: stretches of it are drawn, which takes
a tenth of the time that new noise does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

from distillery.augmentations.base import WaveformAugmentation, fast_length
from distillery.data.audio import to_int16
from distillery.params.augmentation import NoiseParams

EXPONENTS = tuple(np.linspace(0.0, 2.0, 9).tolist())
GENERATED_SECONDS = 30.0
FLAT_BELOW_HZ = 50.0
"""Steep spectra would otherwise put all of their power where it is inaudible."""


class Noise(WaveformAugmentation):
    """Add noise to whole utterances."""

    def __init__(self, params: NoiseParams, recordings: Sequence[np.ndarray]) -> None:
        """Prepare to add noise.

        Args:
            params: how often, and how much.
            recordings: noises to draw from, int16 `(samples,)`, at the waveforms' rate.
        """
        self.probability = params.probability
        self.snr_db = params.snr_db
        self.recordings = recordings

    def apply(self, waveform: Tensor, random: np.random.Generator) -> Tensor:
        """Return the waveform `(samples,)` with noise; a silent stretch of noise adds nothing."""
        ratio = torch.tensor(random.uniform(*self.snr_db))
        recording = self.recordings[int(random.integers(len(self.recordings)))]
        noise = stretch_of(recording, len(waveform), random)
        if not noise.any():
            return waveform
        noisy: Tensor = torchaudio.functional.add_noise(waveform, noise, ratio)
        return noisy


def stretch_of(recording: np.ndarray, num_samples: int, random: np.random.Generator) -> Tensor:
    """Return samples `(samples,)`, float32, from a drawn place on, round and round if they end."""
    places = int(random.integers(len(recording))) + np.arange(num_samples)
    return torch.from_numpy(recording.take(places, mode="wrap").astype(np.float32))


def generated_noises(sample_rate_hz: int) -> list[np.ndarray]:
    """Return one noise for each of EXPONENTS, int16 `(samples,)`; always the same ones."""
    random = np.random.default_rng(0)
    length = round(GENERATED_SECONDS * sample_rate_hz)
    noises = (coloured_noise(length, exponent, sample_rate_hz, random) for exponent in EXPONENTS)
    return [to_int16((noise / noise.abs().max()).numpy()) for noise in noises]


def coloured_noise(
    num_samples: int, exponent: float, sample_rate_hz: int, random: np.random.Generator
) -> Tensor:
    """Return Gaussian noise `(samples,)`, float32, with a power spectrum ∝ 1/f^exponent."""
    length = fast_length(num_samples)
    white = torch.from_numpy(random.standard_normal(length, dtype=np.float32))
    frequencies = torch.fft.rfftfreq(length, 1 / sample_rate_hz).clamp(min=FLAT_BELOW_HZ)
    spectrum = torch.fft.rfft(white) * (frequencies / FLAT_BELOW_HZ) ** (-exponent / 2)
    noise: Tensor = torch.fft.irfft(spectrum, n=length)
    return noise[:num_samples]
