"""Random crops: a stretch of an utterance, of whole frames of the student.

A student's frame t stands for the samples from t·S on, S samples being the distance of its frames.
A stretch of n frames holds n·S - 1 samples, of which exactly n frames are made. The teacher's
cached frames are sliced at the same places: what it said about them, it said knowing the rest.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from distillery.params.augmentation import CropParams


class Crop:
    """Draw stretches of utterances."""

    def __init__(self, params: CropParams) -> None:
        self.probability = params.probability
        self.kept_fraction = params.kept_fraction

    def draw(self, num_frames: int, random: np.random.Generator) -> tuple[int, int] | None:
        """Return first frame and number of frames of what is kept; None keeps the whole.

        Args:
            num_frames: of the student, for the whole utterance.
            random: decides whether it is cut, and where.
        """
        if random.random() >= self.probability:
            return None
        count = max(1, round(random.uniform(*self.kept_fraction) * num_frames))
        if count >= num_frames:
            return None
        return int(random.integers(num_frames - count + 1)), count


def cut(waveform: Tensor, start: int, num_frames: int, frame_samples: int) -> Tensor:
    """Return the samples of so many frames of a waveform `(samples,)`.

    Args:
        waveform: the whole utterance.
        start: first frame.
        num_frames: how many are kept.
        frame_samples: from one frame of the student to the next.
    """
    return waveform[start * frame_samples : (start + num_frames) * frame_samples - 1]
