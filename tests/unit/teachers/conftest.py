"""One prepared corpus for all kinds of teachers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_workspaces import put_tones


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with prepared tones at 8 kHz, not to be written into."""
    return put_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """One of its own, for a test to change."""
    return put_tones(tmp_path)
