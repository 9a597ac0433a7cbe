"""Fixtures of several studies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distillery.training.trainer import Trainer

Interrupt = Callable[[int, Callable[[], object]], None]


@pytest.fixture
def interrupt(epochs: list[str], monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Call something and stop it as Ctrl-C does, once so many epochs are trained and saved."""
    save = Trainer._save

    def run(num_epochs: int, call: Callable[[], object]) -> None:
        def stop(self: Trainer) -> None:
            save(self)
            if len(epochs) == num_epochs:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Trainer, "_save", stop)
            call()

    return run
