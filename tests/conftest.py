"""Fixtures that several test modules share, and how `make test` spreads tests over processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distillery.commands.surroundings import spare_loopback
from tests import shared

spare_loopback(os.environ)  # servers of tests are there, whatever proxy the environment names
torch.set_num_threads(1)  # tests are small, and machines are shared
MAX_WORKERS = 8
"""More gain nothing: a module stays in one process, and a few take minutes."""
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED_MODELS = SHARED_DATA.parent / "models"

WriteRecording = Callable[..., np.ndarray]


@pytest.hookimpl(optionalhook=True)  # for those who run pytest without xdist
def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes `-n auto` means: one for each core that this process may use."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give the workers of this run a folder in common, for what tests/shared.py makes once."""
    shared.use(tmp_path_factory)


@pytest.fixture
def shared_data() -> Path:
    """The folder with real recordings; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is absent: real recordings are not part of the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder with models that others trained; tests that need it skip where it is absent."""
    if not SHARED_MODELS.is_dir():
        pytest.skip(f"{SHARED_MODELS} is absent: others' models are not part of the repository")
    return SHARED_MODELS


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
