"""Reverberation: speech stays where it was, echoes follow it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distillery.augmentations.reverberation import Reverberation, generate_response, reverberate
from distillery.params.augmentation import ReverberationParams
from tests.tiny import RATE_HZ
from tests.unit.augmentations.alignment import common_lag, stand_in_place
from tests.unit.augmentations.conftest import (
    Lab,
    assert_draws_repeat,
    assert_heard_in_place,
    targets_of,
)

MILD = {"probability": 1.0, "rt60_seconds": [0.05, 0.15], "direct_db": [5, 10]}


def test_a_live_teacher_says_the_same_in_the_same_places(lab: Lab, tmp_path: Path) -> None:
    assert_heard_in_place(lab, tmp_path, {"reverberation": MILD})


def test_a_recorded_rooms_delay_moves_nothing(lab: Lab, tmp_path: Path) -> None:
    """The direct sound arrives 150 ms, almost four frames, after the response begins."""
    response = np.zeros(3000)
    response[1200], response[1230], response[1900] = -0.9, 0.2, 0.1
    (tmp_path / "rooms").mkdir()
    soundfile.write(tmp_path / "rooms/hall.flac", response, RATE_HZ)
    settings = {"reverberation": {"probability": 1.0, "folder": "rooms"}}
    batch = lab.batch(tmp_path, augmentation=settings)
    pairs = zip(targets_of(batch), lab.said(batch), strict=True)
    assert stand_in_place(pairs)


def test_strong_rooms_are_late_by_a_frame_at_most(lab: Lab, tmp_path: Path) -> None:
    settings = {"probability": 1.0, "rt60_seconds": [0.3, 0.5], "direct_db": [0, 0]}
    batch = lab.batch(tmp_path, augmentation={"reverberation": settings})
    pairs = list(zip(targets_of(batch), lab.said(batch), strict=True))
    assert common_lag(pairs) in (0, 1)


def test_it_is_a_convolution_from_the_direct_sound_on() -> None:
    waveform = torch.tensor([1.0, 2.0, 0.0, 0.0, -1.0])
    response = torch.tensor([0.0, 0.0, -4.0, 0.0, 3.0])  # norm 5, direct sound at 2
    heard = reverberate(waveform, response)
    expected = torch.tensor([-0.8, -1.6, 0.6, 1.2, 0.8])
    torch.testing.assert_close(heard, expected)


def test_what_the_direct_sound_overtook_is_heard_before_it() -> None:
    heard = reverberate(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(heard, torch.tensor([0.6, 0.8, 0.0]))


@pytest.mark.parametrize(("rt60", "direct_db"), [(0.2, 0.0), (0.5, 12.0)])
def test_generated_echoes_have_their_level_and_fall_by_60_db(rt60: float, direct_db: float) -> None:
    response = generate_response(rt60, direct_db, RATE_HZ, np.random.default_rng(0))
    assert len(response) == round(rt60 * RATE_HZ)
    assert response[0] == 1.0 == response.abs().max()
    energy = response[1:].double().square()
    assert -10 * float(energy.sum().log10()) == pytest.approx(direct_db, abs=0.01)
    tenth = len(energy) // 10  # whose middles lie 0.9 of RT60 apart: 54 dB
    fall = 10 * float((energy[:tenth].sum() / energy[-tenth:].sum()).log10())
    assert fall == pytest.approx(54.0, abs=3.0)


def test_the_shortest_rooms_are_rooms() -> None:
    response = generate_response(1e-6, 0.0, RATE_HZ, np.random.default_rng(0))
    assert torch.isfinite(response).all()
    assert int(response.abs().argmax()) == 0


def test_draws_repeat_with_their_generator() -> None:
    rooms = Reverberation(ReverberationParams(probability=1.0), RATE_HZ)
    assert_draws_repeat(rooms, torch.sin(torch.arange(2000) / 7))
