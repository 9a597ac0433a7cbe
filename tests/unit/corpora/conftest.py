from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distillery.params.prepare import PrepareParams


@pytest.fixture
def params() -> Callable[..., PrepareParams]:
    """Make the section `prepare` for a corpus."""

    def make(corpus: str, **changes: Any) -> PrepareParams:
        settings: dict[str, Any] = {"corpus": corpus, "source": "corpus"}
        return PrepareParams(**settings | changes)

    return make
