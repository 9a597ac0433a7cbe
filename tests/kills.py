"""Training that ends in the middle, as by a kill."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distillery.training.trainer import Trainer


def killed_after_two_epochs(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Let training die right after the checkpoint of its second epoch."""
    save = Trainer._save

    class KilledError(Exception):
        pass

    def save_and_die(self: Trainer) -> None:
        save(self)
        if self.epoch == 2:
            raise KilledError

    monkeypatch.setattr(Trainer, "_save", save_and_die)
    with pytest.raises(KilledError):
        work()
    monkeypatch.undo()
