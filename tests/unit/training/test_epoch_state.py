"""Trainings that end inside an epoch, and go on to the bytes of one that did not."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillery.errors import DistilleryError
from distillery.params.models import CRNNParams, SeparableConvParams
from distillery.training.batches import Batch, Moment
from distillery.training.curves import CPU_SECONDS, DIGEST_BYTES
from distillery.training.epoch_state import EpochState
from distillery.training.objective import Objective
from distillery.training.trainer import Trainer
from tests.kills import killed_in_pass
from tests.unit.training.test_trainer import CONV, CRNN, PARAMS, strip, trainer, with_head

ROOT = Path(__file__).resolve().parents[3]
ALWAYS, NEVER = 0.0, math.inf
"""Seconds between checkpoints: one after every forward pass, and none inside an epoch."""
EPOCHS, STEPS, VALIDATED = 2, 9, 3
"""And forward passes of an epoch: its steps, then the batches of the validation split."""
PASSES = STEPS + VALIDATED
NETWORKS = {"conv": CONV, "crnn": CRNN.model_copy(update={"dropout": 0.3})}
SETTINGS = PARAMS.model_copy(update={"num_epochs": EPOCHS, "average_steps": 5})


def louder(batch: Batch, rows: Sequence[int], moment: Moment) -> Batch:
    """Augment as ours do: what is drawn follows from the step."""
    random = np.random.default_rng([moment.epoch, moment.step])
    noise = torch.from_numpy(random.normal(0, 0.1, batch.features.shape).astype(np.float32))
    return replace(batch, features=batch.features + noise)


def rich_trainer(folder: Path, seconds: float = ALWAYS, network: str = "conv") -> Trainer:
    """Return a training with all that a step may depend on.

    Copies of the audio, augmentation, SpecAugment, dropout, batch normalisation, an average of the
    weights, and an objective with weights of its own.
    """
    architecture: SeparableConvParams | CRNNParams = NETWORKS[network]
    objective = with_head() if network == "conv" else None
    changes = {"objective": objective} if objective is not None else {}
    run = trainer(
        folder, SETTINGS, architecture=architecture, checkpoint_seconds=seconds, **changes
    )
    run.data = replace(run.data, batch_seconds=1.0, augment=louder)
    short = replace(run.validation.data, batch_seconds=0.9)
    run.validation = replace(run.validation, data=short)
    return run


def content(path: Path) -> Any:
    """Return what a checkpoint holds, without what the clock said."""
    state = torch.load(io.BytesIO(path.read_bytes()[:-DIGEST_BYTES]), weights_only=True)
    del state["cpu_seconds"]
    points = [point for point in state["curves"] if not point["key"].endswith(CPU_SECONDS)]
    state["curves"] = [{**point, "timestamp": 0} for point in points]
    return state


def as_bytes(value: Any) -> Any:
    """Return nested values with tensors as bytes: NaN equals itself, 0 is not -0, layout counts."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, value.stride(), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: as_bytes(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_bytes(item) for item in value]
    return value


def assert_same_end(folder: Path, unbroken: Path) -> None:
    one, two = (content(path / "run.pt") for path in (folder, unbroken))
    assert one.keys() == two.keys()
    for name in one:
        assert as_bytes(one[name]) == as_bytes(two[name]), name
    assert strip(folder) == strip(unbroken)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of trainings that nothing broke off, by network."""
    folders = {name: tmp_path_factory.mktemp(name) for name in NETWORKS}
    for name, folder in folders.items():
        run = rich_trainer(folder, NEVER, name)
        run.fit()
        assert run.step == EPOCHS * STEPS
        assert len(list(run.validation.data.inference_batches())) == VALIDATED
    return folders


@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_that_is_killed_in_every_pass_ends_in_the_bytes_of_an_unbroken_one(
    tmp_path: Path, unbroken: dict[str, Path], monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    """Each life does one pass, a step or a batch of the validation split, and dies in the next."""
    for number in range(EPOCHS * PASSES - 1):
        run = rich_trainer(tmp_path, network=network)
        died = killed_in_pass(monkeypatch, 1, run.fit)
        epoch, done = divmod(number + 1, PASSES)
        assert (died.epoch, died.within.num_steps) == (epoch, min(done, STEPS)), number
        assert died.within.num_validated == max(0, done - STEPS), number
    rich_trainer(tmp_path, network=network).fit()
    assert_same_end(tmp_path, unbroken[network])


class SavesAfter:
    """Lets a training write checkpoints after some of its forward passes, and after no other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: Collection[int]) -> None:
        forward = Trainer._forward
        self.num_passes = 0

        def forward_and_say(run: Trainer, *inputs: Any) -> Any:
            run.checkpoint_seconds = ALWAYS if self.num_passes in passes else NEVER
            self.num_passes += 1
            return forward(run, *inputs)

        monkeypatch.setattr(Trainer, "_forward", forward_and_say)


@pytest.mark.parametrize(
    ("saved", "killed"),
    [
        ([], 5),
        ([0], 1),
        ([2], 3),
        ([2], 6),
        ([1, 4], 7),
        ([STEPS - 1], STEPS),
        ([STEPS - 2], STEPS + 1),
        ([STEPS], STEPS + 1),
        ([STEPS], STEPS + 2),
        ([STEPS + 1], PASSES),
        ([3], PASSES),
        ([3], PASSES + 1),
        ([PASSES], PASSES + 1),
        ([PASSES + 5], PASSES + STEPS),
    ],
)
def test_what_came_after_the_last_checkpoint_is_done_again(
    tmp_path: Path,
    unbroken: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    saved: list[int],
    killed: int,
) -> None:
    with monkeypatch.context() as patch:
        SavesAfter(patch, saved)
        killed_in_pass(patch, killed, rich_trainer(tmp_path).fit)
    resumed = rich_trainer(tmp_path, NEVER)
    resumed.fit()
    assert_same_end(tmp_path, unbroken["conv"])


def test_what_is_drawn_before_a_training_goes_on_changes_nothing(
    tmp_path: Path, unbroken: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_in_pass(monkeypatch, 4, rich_trainer(tmp_path).fit)
    run = rich_trainer(tmp_path)
    torch.manual_seed(12345)
    np.random.seed(12345)
    run.fit()
    assert_same_end(tmp_path, unbroken["conv"])


# --- a process that is killed ---------------------------------------------------------------------


def train_and_die(folder: Path, number: int, where: str) -> None:
    """Train, and kill this process in a forward pass, or while it writes the next checkpoint."""
    passes = 0
    forward, replace_file = Trainer._forward, os.replace

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def forward_or_die(self: Trainer, *inputs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes > number and where == "pass":
            die()
        return forward(self, *inputs)

    def replace_or_die(*names: Any) -> None:
        if passes > number:
            die()
        replace_file(*names)

    Trainer._forward = forward_or_die  # type: ignore[method-assign]
    os.replace = replace_or_die  # type: ignore[assignment]
    rich_trainer(folder).fit()


@pytest.mark.parametrize("where", ["pass", "write"])
def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(
    tmp_path: Path, unbroken: dict[str, Path], where: str
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.unit.training.test_epoch_state import train_and_die\n"
        "train_and_die(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), "6", where]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert content(tmp_path / "run.pt")["within"]["num_steps"] == 6
    assert len(list(tmp_path.glob(".run.pt.*.tmp"))) == (where == "write")
    rich_trainer(tmp_path, NEVER).fit()
    assert_same_end(tmp_path, unbroken["conv"])
    assert {path.name for path in tmp_path.iterdir()} == {"run.pt", "curves.jsonl"}


# --- when one is written --------------------------------------------------------------------------


class Clock:
    """Time that passes only in forward passes, so many seconds in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now = 1000.0
        self.num_passes = 0
        self.saves: list[int] = []
        forward, save = Trainer._forward, Trainer._save

        def slow_forward(run: Trainer, *inputs: Any) -> Any:
            self.now += seconds
            self.num_passes += 1
            return forward(run, *inputs)

        def counted_save(run: Trainer) -> None:
            self.saves.append(self.num_passes)
            save(run)

        monkeypatch.setattr(Trainer, "_forward", slow_forward)
        monkeypatch.setattr(Trainer, "_save", counted_save)
        monkeypatch.setattr("distillery.training.trainer.time.monotonic", lambda: self.now)


ENDS = [PASSES, 2 * PASSES, 2 * PASSES]
"""Passes before the checkpoints of epochs, and before the one that says whether it converged."""


def test_an_epoch_that_is_shorter_than_the_time_writes_none_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, 120.0 / PASSES)
    trainer_of_default(tmp_path).fit()
    assert clock.saves == ENDS


def test_a_longer_one_writes_one_whenever_more_time_than_that_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time counts from the last checkpoint, which may be that of an epoch's end."""
    clock = Clock(monkeypatch, 40.0)
    trainer_of_default(tmp_path).fit()
    inside = [4, 8, PASSES + 4, PASSES + 8]
    assert clock.saves == sorted([*ENDS, *inside])


def trainer_of_default(folder: Path) -> Trainer:
    run = rich_trainer(folder)
    run.checkpoint_seconds = trainer(folder, SETTINGS).checkpoint_seconds
    return run


def test_the_time_alone_changes_no_byte(tmp_path: Path, unbroken: dict[str, Path]) -> None:
    rich_trainer(tmp_path, ALWAYS).fit()
    assert_same_end(tmp_path, unbroken["conv"])


def test_a_loss_that_is_no_number_is_told_before_a_checkpoint_takes_it_up(tmp_path: Path) -> None:
    class FailsLater(Objective):
        num_calls = 0

        def forward(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
            self.num_calls += 1
            return {"loss": outputs.log_probs.sum() * (float("nan") if self.num_calls > 3 else 0.0)}

    run = rich_trainer(tmp_path)
    run.objective = FailsLater()
    with pytest.raises(DistilleryError, match="training loss is nan in epoch 1, expected a finite"):
        run.fit()
    assert run.within.num_steps == 4
    state = content(tmp_path / "run.pt")
    assert state["within"]["num_steps"] == 3
    assert all(value.isfinite().all() for value in state["network"].values())


def test_the_log_says_where_inside_an_epoch_a_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed_in_pass(monkeypatch, PASSES + 3, rich_trainer(tmp_path).fit)
    with caplog.at_level("INFO"):
        rich_trainer(tmp_path).fit()
    assert "test: goes on after epoch 1 and 3 steps" in caplog.text


def test_computing_time_inside_an_epoch_is_counted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = killed_in_pass(monkeypatch, 6, rich_trainer(tmp_path).fit)
    before = died.cpu_seconds
    assert before > 0
    rich_trainer(tmp_path).fit()
    lines = map(json.loads, (tmp_path / "curves.jsonl").read_text().splitlines())
    seconds = [line["value"] for line in lines if line["key"] == CPU_SECONDS]
    assert before < seconds[0] < seconds[1]


def test_a_state_says_what_was_added() -> None:
    state = EpochState()
    state.add_step({"loss": torch.tensor(1.5), "ctc": torch.tensor(0.5)}, 1e-3)
    state.add_step({"loss": torch.tensor(2.5), "ctc": torch.tensor(0.0)}, 2e-3)
    assert state.means() == {"loss": 2.0, "ctc": 0.25}
    assert (state.num_steps, state.learning_rate) == (2, 2e-3)


def test_draws_go_on_where_they_were_taken() -> None:
    state = EpochState()
    torch.manual_seed(3)
    torch.rand(5)
    state.take_random("cpu")
    expected = torch.rand(4)
    torch.manual_seed(4)
    state.put_random("cpu")
    assert torch.equal(torch.rand(4), expected)


def test_at_the_beginning_of_an_epoch_draws_stay_as_they_are() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    EpochState().put_random("cpu")
    assert torch.equal(torch.rand(4), expected)
