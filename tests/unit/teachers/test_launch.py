"""Processes that train together: how they end, and how they go on."""

from __future__ import annotations

import io
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from distillery.errors import DistilleryError, ModelError
from distillery.teachers.launch import fit
from distillery.training.curves import DIGEST_BYTES, Curves
from distillery.training.objective import TranscriptObjective
from distillery.training.processes import Processes
from distillery.training.trainer import Trainer
from tests.together import assert_same_curve
from tests.unit.training.test_trainer import CONV, PARAMS, trainer

SETTINGS = PARAMS.model_copy(update={"num_epochs": 3, "seed": 7})
PASS = 4
"""Of a training's first epoch, which has as many steps; the pass after it is in the next."""


class Nonsense(TranscriptObjective):
    """CTC that one of two processes computes wrongly."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, outputs: Any, batch: Any) -> dict[str, torch.Tensor]:
        terms = super().forward(outputs, batch)
        return {name: term * float("nan") if self.wrong else term for name, term in terms.items()}


def build(folder: Path, end: str, processes: Processes) -> Trainer:
    """Return a training; `end` says how rank 1 ends it."""
    is_second = processes.rank == 1
    changes = {"objective": Nonsense(is_second)} if end == "nonsense" else {}
    own = folder if processes.writes else folder / "other"
    run = trainer(own, SETTINGS, architecture=CONV, processes=processes, **changes)
    run.checkpoint, run.checkpoint_seconds = folder / "run.pt", 0.0
    run.curves = Curves(own / "curves.jsonl")
    if is_second and end in ("kill", "raise", "wait"):
        _end_later(run, end)
    return run


def _end_later(run: Trainer, end: str) -> None:
    forward = run._forward
    passes = 0

    def forward_or_end(*inputs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes > PASS:
            if end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if end == "raise":
                raise RuntimeError("no such kernel")
            time.sleep(600)
        return forward(*inputs)

    run._forward = forward_or_end  # type: ignore[method-assign]


def train(folder: Path, end: str = "", count: int = 2) -> Trainer:
    run = build(folder, "", Processes.wanted(count))
    fit(run, partial(build, folder, end))
    return run


def children() -> list[psutil.Process]:
    """Return the processes that this one started; Python's own resource tracker stays."""
    found = psutil.Process().children(recursive=True)
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The learning curve of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, count=1)
    return folder / "curves.jsonl"


def test_a_process_that_is_killed_ends_the_others_and_the_next_run_goes_on(
    alone: Path, tmp_path: Path
) -> None:
    message = "test: rank 1 of 2 processes, counted from 0, ended with SIGKILL, which ended the"
    with pytest.raises(ModelError, match=message):
        train(tmp_path, "kill")
    assert not children()
    content = (tmp_path / "run.pt").read_bytes()[:-DIGEST_BYTES]
    state = torch.load(io.BytesIO(content), weights_only=True)
    assert (state["epoch"], state["step"]) != (0, 0), "rank 0 had left a checkpoint"
    assert state["epoch"] < SETTINGS.most_epochs
    run = train(tmp_path)
    assert_same_curve(alone, tmp_path / "curves.jsonl")
    assert run.best_epoch > 0 and run.cpu_seconds > state["cpu_seconds"] > 0


def test_what_a_training_says_of_itself_is_said_once_and_as_by_one_process(tmp_path: Path) -> None:
    with pytest.raises(DistilleryError, match="test: training loss is nan in epoch 1, expected a"):
        train(tmp_path, "nonsense")
    assert not children()


def test_what_is_nobodys_error_is_shown_with_its_rank(tmp_path: Path) -> None:
    message = r"(?s)test: rank 1 of 2 processes failed:\nTraceback .*RuntimeError: no such kernel"
    with pytest.raises(RuntimeError, match=message):
        train(tmp_path, "raise")


def test_who_waits_takes_the_others_along_when_it_is_stopped(tmp_path: Path) -> None:
    class StoppedError(BaseException):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGALRM, stop)
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 2.0)  # while they start
        with pytest.raises(StoppedError):
            train(tmp_path, "wait")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 60
    assert not children()
