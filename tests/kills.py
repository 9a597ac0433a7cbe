"""Training that ends in the middle, as by a kill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from distillery.training.trainer import Trainer


class KilledError(BaseException):
    """Nothing catches it, so nothing is tidied up."""


def killed_after_two_epochs(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Let training die right after the checkpoint of its second epoch."""
    save = Trainer._save

    def save_and_die(self: Trainer) -> None:
        save(self)
        if self.epoch == 2:
            raise KilledError

    monkeypatch.setattr(Trainer, "_save", save_and_die)
    with pytest.raises(KilledError):
        work()
    monkeypatch.undo()


def killed_in_pass(
    monkeypatch: pytest.MonkeyPatch, number: int, work: Callable[[], object]
) -> Trainer:
    """Let training die in a forward pass: of a step, or of a batch of the validation split.

    Args:
        monkeypatch: pytest's.
        number: of the pass from 0, among those of all networks that the work trains.
        work: trains.

    Returns:
        The trainer that died.
    """
    passes: list[Trainer] = []
    forward = Trainer._forward

    def forward_or_die(self: Trainer, *inputs: Any) -> Any:
        passes.append(self)
        if len(passes) > number:
            raise KilledError
        return forward(self, *inputs)

    monkeypatch.setattr(Trainer, "_forward", forward_or_die)
    with pytest.raises(KilledError):
        work()
    monkeypatch.setattr(Trainer, "_forward", forward)
    return passes[-1]
