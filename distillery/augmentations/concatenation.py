"""Concatenation: two utterances after one another.

The first one is followed by silence up to a whole frame of the student, so that the second one's
frames are made of the same samples as before: of T1 and T2 frames exactly T1 + T2 are made. At the
seam, frames depend a little on the other utterance, and features are normalised over both; the
teacher's cached frames know of neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.params.augmentation import ConcatenateParams


class Concatenation:
    """Draw pairs of utterances."""

    def __init__(self, params: ConcatenateParams) -> None:
        self.probability = params.probability

    def draw(self, count: int, random: np.random.Generator) -> list[list[int]]:
        """Return a batch's positions in groups of two, the last alone where the number is odd.

        A whole batch is joined or none of it is: padding stays what it was.
        """
        if random.random() >= self.probability:
            return [[position] for position in range(count)]
        order = random.permutation(count).tolist()
        return [order[start : start + 2] for start in range(0, count, 2)]


def join(waveforms: Sequence[Tensor], num_frames: Sequence[int], frame_samples: int) -> Tensor:
    """Return waveforms `(samples,)` one after another, each but the last filled with silence.

    Args:
        waveforms: one or more.
        num_frames: of the student, for each of them.
        frame_samples: from one frame of the student to the next.
    """
    filled = [
        F.pad(waveform, (0, count * frame_samples - len(waveform)))
        for waveform, count in zip(waveforms[:-1], num_frames[:-1], strict=True)
    ]
    return torch.cat([*filled, waveforms[-1]])
