"""What a killed run leaves locked is freed without a word of DVC's."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from flows.doctor import DVC_LOCK, DVC_LOCK_GUARD
from flows.stages.lock import forget_the_dead

DEAD = {"pid": 2**22 + 1, "cmd": "dvc repro"}
ALIVE = {"pid": os.getpid(), "cmd": "dvc repro"}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """The path of DVC's lock in a workspace."""
    (tmp_path / DVC_LOCK).parent.mkdir(parents=True)
    return tmp_path / DVC_LOCK


def test_the_dead_lose_their_locks_and_the_living_keep_theirs(lock: Path, tmp_path: Path) -> None:
    held = {"write": {"a": DEAD, "b": ALIVE}, "read": {"c": [DEAD], "d": [DEAD, ALIVE]}}
    lock.write_text(json.dumps(held))
    forget_the_dead(tmp_path)
    assert json.loads(lock.read_text()) == {"write": {"b": ALIVE}, "read": {"d": [ALIVE]}}


@pytest.mark.parametrize("text", ["", "{bad", '{"write": 3}', "[]", '{"write": {"a": {}}}'])
def test_a_damaged_lock_stays_for_the_doctor(lock: Path, tmp_path: Path, text: str) -> None:
    lock.write_text(text)
    forget_the_dead(tmp_path)
    assert lock.read_text() == text


def test_a_lock_that_dvc_edits_is_left_to_dvc(lock: Path, tmp_path: Path) -> None:
    text = json.dumps({"write": {"a": DEAD}})
    lock.write_text(text)
    with open(tmp_path / DVC_LOCK_GUARD, "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        forget_the_dead(tmp_path)
    assert lock.read_text() == text


def test_no_lock_is_no_fault(tmp_path: Path) -> None:
    forget_the_dead(tmp_path)
    assert not (tmp_path / DVC_LOCK).exists()
