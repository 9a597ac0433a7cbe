"""Rates: usual ones keep their bytes, odd ones cost no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio

from distillery.data.audio import resample, to_int16
from distillery.data.resampling import needs_torch
from tests.recordings import tone

ROOT = Path(__file__).resolve().parents[3]
USUAL_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


@pytest.mark.parametrize("target_hz", [8000, 16000, 48000])
def test_usual_rates_go_through_torchaudios_kernel(target_hz: int) -> None:
    assert all(needs_torch(rate, target_hz) for rate in USUAL_HZ if rate != target_hz)
    assert not needs_torch(target_hz, target_hz)
    for permille in range(500, 2001):  # copies at other speeds
        assert needs_torch(16 * permille, 16000) or permille == 1000


def test_usual_rates_keep_their_bytes() -> None:
    samples = to_int16(tone(0.5, 11025))
    waveform = torch.from_numpy(samples.astype(np.float32) / np.float32(32768))
    expected = to_int16(torchaudio.transforms.Resample(11025, 16000)(waveform).numpy())
    np.testing.assert_array_equal(resample(samples, 11025, 16000), expected)


@pytest.mark.parametrize(
    ("rate_hz", "target_hz"),
    [(7999, 8000), (7999, 16000), (44101, 16000), (16001, 8000), (1009, 48000), (767_999, 16000)],
)
def test_odd_rates_keep_pitch_level_and_length(rate_hz: int, target_hz: int) -> None:
    seconds = np.arange(2 * rate_hz) / rate_hz
    samples = np.round(10000 * np.sin(2 * np.pi * 440 * seconds)).astype(np.int16)
    changed = resample(samples, rate_hz, target_hz)
    assert changed.dtype == np.int16
    assert len(changed) == -(-len(samples) * target_hz // rate_hz)
    spectrum = np.abs(np.fft.rfft(changed))
    assert int(spectrum.argmax()) == 880  # two seconds: bin = half a hertz
    rms = np.sqrt(np.mean(changed[1000:-1000].astype(float) ** 2))
    assert rms == pytest.approx(10000 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("length", [0, 1, 2, 17, 999])
def test_few_samples_have_the_length_that_others_count_on(length: int) -> None:
    samples = np.full(length, 100, np.int16)
    for rate_hz in (7999, 16001):
        assert len(resample(samples, rate_hz, 8000)) == -(-length * 8000 // rate_hz)


def test_an_odd_rate_costs_little_time_and_memory_and_no_pytorch() -> None:
    """21 kB at 7,999 Hz took 7 s of CPU time and 2.6 GB."""
    script = (
        "import resource, sys, time, numpy as np; from distillery.data.audio import resample\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = time.process_time()\n"
        "resample(np.ones(10500, np.int16), 7999, 8000)\n"
        "assert time.process_time() - start < 0.5, time.process_time() - start\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 50_000, grown  # kB\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
