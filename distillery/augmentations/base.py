"""What every augmentation declares: what it does to time, and so to cached targets."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

import numpy as np
from torch import Tensor


class Timing(Enum):
    """What an augmentation does to time."""

    PRESERVED = "every frame stays where it is: cached targets stay valid as they are"
    SLICED = "whole frames are cut off: cached frames are sliced, texts do not count"
    JOINED = "utterances follow each other: cached frames and texts are joined"
    OWN_KEYS = "another speed: copies have keys, and so teacher outputs, of their own"
    REFUSED = "frames move by changing amounts: an error"


def fast_length(at_least: int) -> int:
    """Return the next number 2^k or 3·2^k: Fourier transforms of other lengths take up to 9 times
    as long."""
    power = 1 << (at_least - 1).bit_length()
    three_quarters = power // 4 * 3
    return three_quarters if three_quarters >= at_least else power


class WaveformAugmentation:
    """A change to one waveform that leaves time as it is."""

    timing: ClassVar[Timing] = Timing.PRESERVED
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
