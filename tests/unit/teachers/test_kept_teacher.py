"""Whether a poor teacher may go on is no reason to train it again; anything else is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.teacher import teacher
from tests.kills import killed_in_pass
from tests.tiny import tiny_params, write_params
from tests.tiny_workspaces import put_teacher


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a teacher; its code is a copy that a test may change."""
    return put_teacher(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change, in which DVC has removed the teacher to make it again."""
    root = tmp_path / "copy"
    shutil.copytree(finished, root, copy_function=shutil.copy2)
    shutil.rmtree(root / "models/teacher")
    return root


def allow_poor(root: Path, value: bool, **changes: Any) -> None:
    write_params(root, tiny_params(teacher={"allow_poor": value, **changes}))


def checkpoints(root: Path) -> list[Path]:
    return list((root / "scratch").glob("teacher-*.pt"))


def test_allowing_a_poor_teacher_takes_no_training(
    finished: Path, copy: Path, epochs: list[str]
) -> None:
    allow_poor(copy, False)
    teacher(copy)
    assert not epochs
    before, after = (root / "models/teacher" for root in (finished, copy))
    assert {path.name for path in after.iterdir()} == {path.name for path in before.iterdir()}
    for path in after.iterdir():
        assert path.read_bytes() == (before / path.name).read_bytes()
    learnt = (finished / "curves/teacher.jsonl").read_bytes()
    assert (copy / "curves/teacher.jsonl").read_bytes() == learnt


def test_another_time_between_checkpoints_takes_no_training(copy: Path, epochs: list[str]) -> None:
    write_params(copy, tiny_params() | {"training": {"checkpoint_seconds": 7.0}})
    teacher(copy)
    assert not epochs


def test_a_teacher_killed_inside_an_epoch_goes_on_there(
    finished: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(copy / "scratch")
    write_params(copy, tiny_params() | {"training": {"checkpoint_seconds": 1e-6}})
    died = killed_in_pass(monkeypatch, 2, lambda: teacher(copy))
    assert died.within.num_steps == 2
    write_params(copy, tiny_params())
    with caplog.at_level("INFO"):
        teacher(copy)
    assert "teacher: goes on after epoch 0 and 2 steps" in caplog.text
    for path in (finished / "models/teacher").iterdir():
        assert (copy / "models/teacher" / path.name).read_bytes() == path.read_bytes()


def test_other_code_and_other_settings_train_anew(copy: Path, epochs: list[str]) -> None:
    with open(copy / "distillery/models/layers.py", "a", encoding="utf-8") as file:
        file.write("# another line\n")
    teacher(copy)
    assert epochs == ["teacher"] * 3
    allow_poor(copy, True, features={"num_mels": 18})
    teacher(copy)
    assert len(epochs) == 6
    assert len(checkpoints(copy)) == 1  # the former one is gone
