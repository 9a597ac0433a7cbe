"""Whose turn it is: a try that is overtaken, a pass that has ended, what a try has noted."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distillery.errors import CacheError
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.plan import Partition, PartitionReport
from distillery.teacher_cache.filling.turns import Turn, begin_pass, end_passes
from distillery.teachers.kinds import load_teacher

TAKEN_OVER = "another worker or pass has taken over"


def partition(of_pass: str, keys: tuple[str, ...] = ("aa", "bb")) -> Partition:
    places, rows = Places(Path("d"), Path("t"), Path("c")), pd.DataFrame({"audio_key": list(keys)})
    batch = np.arange(len(keys))
    return Partition(places, "n", rows, [batch], 1.0, CacheParams(), load_teacher, of_pass)


def test_the_last_try_has_the_turn(tmp_path: Path) -> None:
    job = partition(begin_pass(tmp_path, {}))
    first, second = Turn(tmp_path, job), Turn(tmp_path, job)
    assert first.take() is None
    with first.publishing():
        pass
    assert second.take() == PartitionReport()
    with pytest.raises(CacheError, match=TAKEN_OVER), first.publishing():
        raise AssertionError("it published")
    with second.publishing():
        pass


def test_partitions_and_passes_have_turns_of_their_own(tmp_path: Path) -> None:
    jobs = [partition(begin_pass(tmp_path, {}), keys) for keys in (("aa",), ("bb",))]
    jobs += [partition(begin_pass(tmp_path, {}), ("aa",))]
    turns = [Turn(tmp_path, job) for job in jobs]
    assert [turn.take() for turn in turns] == [None, None, None]
    for turn in turns:
        with turn.publishing():
            pass


def test_nothing_of_a_pass_that_has_ended_is_published(tmp_path: Path) -> None:
    job = partition(begin_pass(tmp_path, {}))
    turn = Turn(tmp_path, job)
    turn.take()
    end_passes(tmp_path)
    with pytest.raises(CacheError, match=TAKEN_OVER), turn.publishing():
        raise AssertionError("it published")
    with pytest.raises(CacheError, match=TAKEN_OVER):
        Turn(tmp_path, job).take()
    end_passes(tmp_path / "where there was no pass yet")


@pytest.mark.parametrize("what", ["another try", "the end of the pass"])
def test_who_takes_the_turn_waits_while_a_shard_is_published(tmp_path: Path, what: str) -> None:
    """Or it would look at what is cached just before that shard."""
    job = partition(begin_pass(tmp_path, {}))
    turn = Turn(tmp_path, job)
    turn.take()
    taking: Callable[[], object] = Turn(tmp_path, job).take
    if what == "the end of the pass":
        taking = lambda: end_passes(tmp_path)  # noqa: E731
    taker = threading.Thread(target=taking)
    with turn.publishing():
        taker.start()
        time.sleep(0.2)
        assert taker.is_alive()
    taker.join()
    with pytest.raises(CacheError, match=TAKEN_OVER), turn.publishing():
        raise AssertionError("it published")


def test_who_waited_for_a_pass_that_was_ended_meanwhile_publishes_nothing(tmp_path: Path) -> None:
    """It holds the lock of a file that has no name any more."""
    of_pass = begin_pass(tmp_path, {})
    turn = Turn(tmp_path, partition(of_pass))
    turn.take()
    said: list[str] = []

    def publish() -> None:
        try:
            with turn.publishing():
                said.append("published")
        except CacheError as error:
            said.append(str(error))

    publisher = threading.Thread(target=publish)
    with open(tmp_path / of_pass, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        publisher.start()
        time.sleep(0.2)
        assert publisher.is_alive()
        (tmp_path / of_pass).unlink()
    publisher.join()
    assert TAKEN_OVER in said[0]


def test_who_takes_over_learns_what_all_before_had_heard(tmp_path: Path) -> None:
    job = partition(begin_pass(tmp_path, {}))
    first, second, third = (Turn(tmp_path, job) for _ in range(3))
    first.take()
    first.note(PartitionReport(2, 0.5))
    first.note(PartitionReport(1, 0.25))
    first.note(PartitionReport(languages={"nl": 2, "en": 1}))
    second.take()
    second.note(PartitionReport(4, 1.0, {"nl": 1}))
    for path in tmp_path.glob(".heard-*"):  # a kill leaves half a line
        path.write_bytes(path.read_bytes() + b'{"num_utterances": 9')
    assert third.take() == PartitionReport(7, 1.75, {"nl": 3, "en": 1})
