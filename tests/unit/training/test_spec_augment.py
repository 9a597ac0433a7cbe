"""SpecAugment: masks leave every frame where it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from distillery.params.training import SpecAugmentParams
from distillery.training.spec_augment import spec_augment
from tests.unit.augmentations.alignment import divergence, stand_in_place
from tests.unit.augmentations.conftest import Lab, targets_of


def test_masks_stay_within_their_share_and_keep_every_frame_in_place() -> None:
    torch.manual_seed(0)
    params = SpecAugmentParams(
        num_time_masks=1,
        max_time_fraction=0.2,
        num_frequency_masks=1,
        max_frequency_fraction=0.25,
    )
    features, lengths = torch.ones(64, 50, 20), torch.tensor([50, 30] * 32)
    masked = spec_augment(features, lengths, params)
    assert masked.shape == features.shape
    for row in range(64):
        frames = (masked[row] == 0).all(dim=1)
        bands = (masked[row] == 0).all(dim=0)
        assert frames.sum() <= 0.2 * lengths[row] + 1
        assert bands.sum() <= 0.25 * 20 + 1
        assert not frames[int(lengths[row]) :].any()
        untouched = masked[row][~frames][:, ~bands]
        assert torch.equal(untouched, torch.ones_like(untouched))
    assert (masked == 0).any()


def test_no_masks_leave_the_features_alone() -> None:
    features = torch.randn(2, 10, 4)
    params = SpecAugmentParams(num_time_masks=0, num_frequency_masks=0)
    assert torch.equal(spec_augment(features, torch.tensor([10, 5]), params), features)


def test_a_live_teacher_says_the_same_in_the_same_places(lab: Lab, tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = lab.batch(tmp_path)
    params = SpecAugmentParams(max_time_fraction=0.05)
    masked = spec_augment(batch.features, batch.feature_lengths, params)
    assert not torch.equal(masked, batch.features)
    pairs = list(zip(targets_of(batch), lab.said(replace(batch, features=masked)), strict=True))
    assert stand_in_place(pairs)
    assert np.mean([divergence(*pair) for pair in pairs]) < 0.5
