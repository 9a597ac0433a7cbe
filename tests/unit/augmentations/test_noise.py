"""Noise: time is preserved, the ratio is the one asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distillery.augmentations.noise import (
    EXPONENTS,
    Noise,
    coloured_noise,
    generated_noises,
    stretch_of,
)
from distillery.params.augmentation import NoiseParams
from tests.tiny import RATE_HZ
from tests.unit.augmentations.alignment import stand_in_place
from tests.unit.augmentations.conftest import (
    Lab,
    assert_draws_repeat,
    assert_heard_in_place,
    targets_of,
)

SPEECH = torch.from_numpy(np.sin(np.arange(4000) / 5).astype(np.float32))


def always(snr_db: float) -> NoiseParams:
    return NoiseParams(probability=1.0, snr_db=(snr_db, snr_db))


def test_a_live_teacher_says_the_same_in_the_same_places(lab: Lab, tmp_path: Path) -> None:
    assert_heard_in_place(lab, tmp_path, {"noise": {"probability": 1.0, "snr_db": [15, 20]}})


def test_recorded_noise_moves_nothing_either(lab: Lab, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    (tmp_path / "noises/far/down").mkdir(parents=True)
    soundfile.write(tmp_path / "noises/far/down/hum.wav", random.normal(0, 0.1, 2000), 16000)
    settings = {"noise": {"probability": 1.0, "snr_db": [15, 20], "folder": "noises"}}
    batch = lab.batch(tmp_path, augmentation=settings)
    pairs = zip(targets_of(batch), lab.said(batch), strict=True)
    assert stand_in_place(pairs)


@pytest.mark.parametrize("snr_db", [0.0, 12.0])
def test_the_ratio_is_that_of_the_energies(snr_db: float) -> None:
    noisy = Noise(always(snr_db), generated_noises(RATE_HZ)).apply(SPEECH, np.random.default_rng(0))
    assert noisy.shape == SPEECH.shape
    ratio = SPEECH.square().sum() / (noisy - SPEECH).square().sum()
    assert 10 * float(ratio.log10()) == pytest.approx(snr_db, abs=0.01)


def test_recorded_noise_is_what_is_added() -> None:
    hum = np.array([0, 100, 0, -100], np.int16)
    noisy = Noise(always(10.0), [hum]).apply(SPEECH, np.random.default_rng(0))
    added = noisy - SPEECH
    torch.testing.assert_close(added[2:], -added[:-2], atol=1e-4, rtol=0)
    assert added.abs().max() > 0.1


def test_short_recordings_go_round() -> None:
    heard = stretch_of(np.arange(3, dtype=np.int16), 7, np.random.default_rng(0)).tolist()
    first = int(heard[0])
    assert heard == [(first + place) % 3 for place in range(7)]


@pytest.mark.parametrize(("silent", "other"), [("noise", 1.0), ("speech", 0.0)])
def test_silence_gives_no_nonsense(silent: str, other: float) -> None:
    """Neither a silent stretch of a recording nor silent speech has a level to scale by."""
    recordings = [np.zeros(10, np.int16)] if silent == "noise" else generated_noises(RATE_HZ)
    speech = SPEECH if silent == "noise" else torch.zeros(4000)
    heard = Noise(always(10.0), recordings).apply(speech, np.random.default_rng(0))
    torch.testing.assert_close(heard, other * SPEECH)


def test_a_steeper_spectrum_falls_by_3_db_an_octave_for_each_unit() -> None:
    """Power in 400 to 800 Hz against 1600 to 3200 Hz: four times the band, 1/16 of the density."""

    def power(exponent: float, low_hz: int, high_hz: int) -> float:
        noise = coloured_noise(RATE_HZ, exponent, RATE_HZ, np.random.default_rng(0))
        return float(torch.fft.rfft(noise).abs().square()[low_hz:high_hz].sum())

    for exponent, expected in ((0.0, 0.25), (1.0, 1.0), (2.0, 4.0)):
        ratio = power(exponent, 400, 800) / power(exponent, 1600, 3200)
        assert ratio == pytest.approx(expected, rel=0.2)


def test_draws_repeat_with_their_generator_and_probability_counts() -> None:
    noises = generated_noises(RATE_HZ)
    noise = Noise(always(10.0), noises)
    assert_draws_repeat(noise, SPEECH)
    seldom = Noise(NoiseParams(probability=0.25), noises)
    random = np.random.default_rng(0)
    changed = sum(not torch.equal(seldom(SPEECH, random), SPEECH) for _ in range(400))
    assert 70 < changed < 130


def test_generated_noises_are_always_the_same_and_none_is_clipped() -> None:
    one, two = generated_noises(RATE_HZ), generated_noises(RATE_HZ)
    assert len(one) == len(EXPONENTS)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(len(noise) == 30 * RATE_HZ for noise in one)
    assert all(30_000 < np.abs(noise.astype(int)).max() < 32_769 for noise in one)
    assert all((np.abs(noise.astype(int)) > 32_766).sum() <= 1 for noise in one)
