"""Gain: time is preserved, the level is the one asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.augmentations.gain import Gain
from distillery.params.augmentation import GainParams
from tests.unit.augmentations.alignment import divergence, stand_in_place
from tests.unit.augmentations.conftest import Lab, targets_of


def test_a_live_teacher_says_the_same_in_the_same_places(lab: Lab, tmp_path: Path) -> None:
    settings = {"gain": {"probability": 1.0, "gain_db": [-20, -10]}}
    batch, plain = lab.batch(tmp_path, augmentation=settings), lab.batch(tmp_path)
    assert not torch.equal(batch.features, plain.features)
    assert torch.equal(batch.teacher_log_probs, plain.teacher_log_probs)
    pairs = list(zip(targets_of(batch), lab.said(batch), strict=True))
    assert stand_in_place(pairs)
    assert max(divergence(*pair) for pair in pairs) < 0.05


@pytest.mark.parametrize(("gain_db", "factor"), [(20.0, 10.0), (0.0, 1.0), (-40.0, 0.01)])
def test_20_decibels_are_a_factor_of_ten(gain_db: float, factor: float) -> None:
    gain = Gain(GainParams(probability=1.0, gain_db=(gain_db, gain_db)))
    waveform = torch.tensor([0.5, -0.25, 0.0])
    heard = gain(waveform, np.random.default_rng(0))
    torch.testing.assert_close(heard, factor * waveform)
    assert waveform.tolist() == [0.5, -0.25, 0.0]
