"""One prepared corpus for all kinds of teachers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.prepare import prepare
from tests.tiny import tiny_params, write_corpus, write_params


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared tones at 8 kHz, not to be written into."""
    root = tmp_path_factory.mktemp("tones")
    write_corpus(root / "corpus", num_speakers=6, per_speaker=2)
    write_params(root, tiny_params())
    prepare(root)
    return root


@pytest.fixture
def prepared(tone_corpus: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(tone_corpus, tmp_path, dirs_exist_ok=True)
    return tmp_path
