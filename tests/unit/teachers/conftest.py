"""One prepared corpus for all kinds of teachers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_workspaces import put_tones


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A workspace with prepared tones at 8 kHz."""
    return put_tones(tmp_path)
