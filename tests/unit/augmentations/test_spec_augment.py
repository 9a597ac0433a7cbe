import torch

from distillery.augmentations.spec_augment import spec_augment
from distillery.params import SpecAugmentParams


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
