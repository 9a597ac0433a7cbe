"""Gain: the whole utterance louder or softer.

Features are normalised per utterance, which removes most of it again: what is left is how far the
speech stands above the floor of the logarithm, and, where utterances are joined, their difference.
Nothing is clipped.
"""

from __future__ import annotations

import numpy as np
import torchaudio.functional
from torch import Tensor

from distillery.augmentations.base import WaveformAugmentation
from distillery.params.augmentation import GainParams


class Gain(WaveformAugmentation):
    """Multiply by 10^(g / 20), g uniform in decibels."""

    def __init__(self, params: GainParams) -> None:
        self.probability = params.probability
        self.gain_db = params.gain_db

    def apply(self, waveform: Tensor, random: np.random.Generator) -> Tensor:
        """Return the waveform `(samples,)` at another level."""
        changed: Tensor = torchaudio.functional.gain(waveform, random.uniform(*self.gain_db))
        return changed
