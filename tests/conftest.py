"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

torch.set_num_threads(1)  # tests are small, and machines are shared
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

WriteRecording = Callable[..., np.ndarray]


@pytest.fixture
def shared_data() -> Path:
    """The folder with real recordings; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is absent: real recordings are not part of the repository")
    return SHARED_DATA


@pytest.fixture
def write_recording() -> WriteRecording:
    """Write seeded noise as an audio file of any kind; the int16 samples come back."""

    def write(
        path: Path,
        duration_seconds: float = 1.0,
        sample_rate_hz: int = 16000,
        seed: int = 0,
    ) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(
            0, 1000, round(duration_seconds * sample_rate_hz)
        )
        samples = noise.astype(np.int16)  # (samples,)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, sample_rate_hz)
        return samples

    return write
