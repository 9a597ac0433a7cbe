"""What augmentations of waveforms share.

What an augmentation does to time decides what becomes of cached targets:

    noise, gain, reverberation   every frame stays in its place: targets stay as they are
    crop                         whole frames are cut off: cached frames are sliced, texts dropped
    concatenate                  utterances follow each other: cached frames and texts are joined
    cache.speed_factors          another speed: copies have keys and teacher outputs of their own
    time_warp                    frames move by changing amounts: refused
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def fast_length(at_least: int) -> int:
    """Return the next number 2^k or 3·2^k: Fourier transforms of other lengths take up to 9 times
    as long."""
    power = 1 << (at_least - 1).bit_length()
    three_quarters = power // 4 * 3
    return three_quarters if three_quarters >= at_least else power


class WaveformAugmentation:
    """A change to one waveform that leaves time as it is."""

    probability: float

    def __call__(self, waveform: Tensor, random: np.random.Generator) -> Tensor:
        """Return the waveform `(samples,)`, changed or not; as long, and with nothing moved.

        Args:
            waveform: float32 `(samples,)`, which is not written to.
            random: decides whether it is changed, and how.
        """
        if random.random() >= self.probability:
            return waveform
        return self.apply(waveform, random)

    def apply(self, waveform: Tensor, random: np.random.Generator) -> Tensor:
        """Return the changed waveform `(samples,)`."""
        raise NotImplementedError
