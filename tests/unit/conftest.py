"""Fixtures of several unit tests."""

from __future__ import annotations

from typing import Any

import pytest

from distillery.training.trainer import Trainer


@pytest.fixture
def epochs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are trained, once per epoch."""
    seen: list[str] = []
    train_epoch = Trainer._train_epoch

    def counting(self: Trainer, bar: Any) -> dict[str, float]:
        seen.append(self.name)
        return train_epoch(self, bar)

    monkeypatch.setattr(Trainer, "_train_epoch", counting)
    return seen
