"""Levels of signals whose levels are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillery.prepare.levels import OVERDRIVEN, Levels, measure, overdriven_fraction

RATE_HZ = 8000


def sine(amplitude: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.rint(amplitude * 32768 * np.sin(2 * np.pi * 400 * time)).astype(np.int16)


def test_a_sine_around_an_offset() -> None:
    found = measure(sine(0.1) + np.int16(16384), RATE_HZ)
    assert found.dc_offset == pytest.approx(0.5, abs=1e-4)
    assert found.sound_dbfs == pytest.approx(20 * math.log10(0.1 / math.sqrt(2)), abs=0.01)
    assert found.level_dbfs == pytest.approx(10 * math.log10(0.25 + 0.005), abs=0.01)
    assert (found.clipped_fraction, found.silent_fraction) == (0.0, 0.0)


def test_an_offset_alone_is_silence() -> None:
    found = measure(np.full(RATE_HZ, 16384, np.int16), RATE_HZ)
    assert (found.sound_dbfs, found.silent_fraction) == (-100.0, 1.0)
    assert found.level_dbfs == pytest.approx(-6.02, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_the_silent_share_is_that_of_the_frames(share: float) -> None:
    silent = round(share * RATE_HZ)
    samples = np.concatenate([sine(1e-4)[:silent], sine(0.2)[silent:]])  # −83 dB and −17 dB
    assert measure(samples, RATE_HZ).silent_fraction == pytest.approx(share, abs=0.021)


@pytest.mark.parametrize("length", [0, 1, 7, 159, 161])
def test_any_length_has_a_level(length: int) -> None:
    found = measure(np.full(length, 5, np.int16), RATE_HZ)
    assert found.silent_fraction == 1.0
    assert found == Levels() or length


def test_floats_in_the_scale_of_integers_are_overdriven_and_loud_speech_is_not() -> None:
    noise = np.random.default_rng(0).normal(0, 300, RATE_HZ)  # int16's scale, 40 dB below full
    noise[:4000] = 0  # digital silence proves nothing
    scaled = np.clip(noise * 32768, -32768, 32767).astype(np.int16)
    assert overdriven_fraction(scaled) > 0.99
    loud = np.clip(sine(1.3).astype(float) * 1.3, -32768, 32767).astype(np.int16)
    assert measure(loud, RATE_HZ).clipped_fraction > 0.1
    assert overdriven_fraction(np.clip(3 * sine(0.33), -32768, 32767)) < OVERDRIVEN
    assert overdriven_fraction(np.zeros(10, np.int16)) == 0.0
