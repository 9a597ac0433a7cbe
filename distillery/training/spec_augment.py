"""SpecAugment without time warping (Park et al., 2019, arXiv 1904.08779).

Masks leave every frame where it is, so cached frame targets stay valid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillery.models.share import taken
from distillery.params.training import SpecAugmentParams


def spec_augment(features: Tensor, lengths: Tensor, params: SpecAugmentParams) -> Tensor:
    """Return features with bands of time and of mels set to 0, their mean.

    Args:
        features: `(batch, feature_frames, mels)`, normalised per utterance.
        lengths: `(batch,)`, on the CPU, as the masks are drawn; a time mask's width is a
            share of these.
        params: numbers and widths of the masks.
    """
    num_frames, num_mels = features.shape[1:]
    for _ in range(params.num_time_masks):
        hidden = _bands(lengths, params.max_time_fraction, num_frames).to(features.device)
        features = features.masked_fill(hidden[:, :, None], 0.0)
    for _ in range(params.num_frequency_masks):
        sizes = torch.full_like(lengths, num_mels)
        hidden = _bands(sizes, params.max_frequency_fraction, num_mels).to(features.device)
        features = features.masked_fill(hidden[:, None, :], 0.0)
    return features


def _bands(sizes: Tensor, max_fraction: float, width: int) -> Tensor:
    """Return a mask `(batch, width)` with one random band inside each row's size."""
    share = taken()
    drawn = torch.rand(2, len(sizes)) if share is None else share.own(torch.rand(2, share.num_rows))
    lengths = (drawn[0] * (max_fraction * sizes + 1)).long().clamp(max=sizes)
    starts = (drawn[1] * (sizes - lengths + 1)).long()
    position = torch.arange(width)[None]
    return (position >= starts[:, None]) & (position < (starts + lengths)[:, None])
