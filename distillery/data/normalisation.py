"""Normalisation of features by the frames so far, for recognisers that stream.

For each mel band, with x_0 the first frame, d_i = x_i - x_0, n = t + 1 frames so far, and k frames
of a prior with mean 0 and variance s²:

    m_t = Σ_{i≤t} d_i / (k + n)
    v_t = (k·s² + Σ_{i≤t} d_i²) / (k + n) - m_t²
    y_t = (d_t - m_t) / sqrt(v_t + VARIANCE_FLOOR)

Level and channel cancel in d. The first frames, of which there are too few for a variance, are
divided by about s; after some seconds the frames outweigh the prior. No frame reads a later one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillery.data.feature_constants import PRIOR_FRAMES, PRIOR_VARIANCE, VARIANCE_FLOOR


class RunningNormaliser:
    """Normalise one utterance's log-mel frames as they come; each piece changes the state."""

    def __init__(self) -> None:
        self.num_frames = 0
        self.first: Tensor | None = None  # (mels,)
        self.sums = torch.zeros(2, 1, dtype=torch.float64)  # of d and of d², (2, mels)

    def __call__(self, logs: Tensor) -> Tensor:
        """Return the next frames, normalised: `(feature_frames, mels)` for the same shape."""
        if not len(logs):
            return logs
        self.first = logs[0] if self.first is None else self.first
        shifted = (logs - self.first).double()
        # Sums in double precision hardly depend on where the pieces were cut.
        sums = torch.stack([shifted, shifted.square()], dim=1).cumsum(dim=0) + self.sums
        counts = self.num_frames + torch.arange(1, len(logs) + 1, dtype=torch.float64)[:, None]
        self.num_frames, self.sums = self.num_frames + len(logs), sums[-1]
        return normalised_so_far(shifted, sums[:, 0], sums[:, 1], counts)


def normalised_so_far(shifted: Tensor, sums: Tensor, squares: Tensor, counts: Tensor) -> Tensor:
    """Return frames y_t as float32, of the formula above.

    Args:
        shifted: d_t, float64, of any shape, as are the others where nothing else is said.
        sums: Σ_{i≤t} d_i.
        squares: Σ_{i≤t} d_i².
        counts: frames so far, which fits the shape.
    """
    means = sums / (PRIOR_FRAMES + counts)
    mean_squares = (PRIOR_FRAMES * PRIOR_VARIANCE + squares) / (PRIOR_FRAMES + counts)
    variances = mean_squares - means.square()
    return ((shifted - means) / torch.sqrt(variances + VARIANCE_FLOOR)).float()
