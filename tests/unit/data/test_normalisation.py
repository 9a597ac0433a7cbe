import math

import pytest
import torch

from distillery.data.feature_constants import PRIOR_FRAMES, PRIOR_VARIANCE, VARIANCE_FLOOR
from distillery.data.features import LogMel
from distillery.data.normalisation import RunningNormaliser
from distillery.params.models import FeatureParams


def frames(num_frames: int = 30, num_mels: int = 3) -> torch.Tensor:
    return 2 * torch.randn(num_frames, num_mels, generator=torch.Generator().manual_seed(0)) - 5


def test_two_frames_by_hand() -> None:
    # d = 0, 2. Frame 0: 0 over anything. Frame 1, with 50 frames of variance 4 in front and 2 of
    # its own: mean 2 / 52, mean square (200 + 4) / 52
    mean = 2 / 52
    expected = (2 - mean) / math.sqrt(204 / 52 - mean**2 + 0.01)
    found = RunningNormaliser()(torch.tensor([[3.0], [5.0]]))
    assert found.flatten().tolist() == pytest.approx([0.0, expected])


def test_it_equals_a_plain_loop() -> None:
    logs = frames()
    found = RunningNormaliser()(logs)
    assert found.shape == (30, 3)
    for band in range(3):
        for t in range(30):
            seen = [float(x - logs[0, band]) for x in logs[: t + 1, band]]
            count = PRIOR_FRAMES + len(seen)
            mean = sum(seen) / count
            square = (PRIOR_FRAMES * PRIOR_VARIANCE + sum(x * x for x in seen)) / count
            expected = (seen[-1] - mean) / math.sqrt(square - mean**2 + VARIANCE_FLOOR)
            assert found[t, band].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("sizes", [[30], [1] * 30, [7, 0, 20, 3], [0, 29, 1]])
def test_pieces_give_what_the_whole_gives(sizes: list[int]) -> None:
    normaliser, whole = RunningNormaliser(), RunningNormaliser()(frames())
    pieces = [normaliser(piece) for piece in frames().split(sizes)]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-6)


def test_no_frame_hears_a_later_one() -> None:
    changed = frames()
    changed[20:] += 9.0
    before, after = RunningNormaliser()(frames()), RunningNormaliser()(changed)
    assert torch.equal(before[:20], after[:20])
    assert not torch.equal(before[20], after[20])


def test_the_level_of_a_band_cancels() -> None:
    shifted = frames() + torch.tensor([4.0, -3.0, 0.5])
    found, expected = RunningNormaliser()(shifted), RunningNormaliser()(frames())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_after_a_minute_it_is_the_normalisation_over_the_utterance() -> None:
    logs = frames(6000)
    found = RunningNormaliser()(logs)[-1]
    expected = (logs[-1] - logs.mean(dim=0)) / logs.std(dim=0)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_silence_stays_finite_and_a_sudden_sound_is_bounded() -> None:
    extractor = LogMel(FeatureParams(num_mels=16, normalise="running"), 8000)
    waveform = torch.zeros(16000)
    waveform[8000:] = 0.5 * torch.randn(8000, generator=torch.Generator().manual_seed(1))
    features = extractor(waveform)
    assert torch.isfinite(features).all()
    assert features[:90].abs().max() == 0
    assert features.abs().max() < 15
