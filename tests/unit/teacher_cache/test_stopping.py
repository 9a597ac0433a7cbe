"""A teacher pass that is told to stop: what it has heard by then stays."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillery.models.recogniser import Recogniser
from distillery.params.cache import CacheParams
from distillery.teacher_cache import shards
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.filling.report import PassReport
from distillery.teacher_cache.shards import leftovers
from distillery.teacher_cache.stopping import stop_held_back
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from tests.tiny import tiny_params, write_params
from tests.tiny_workspaces import put_teacher

ROOT = Path(__file__).resolve().parents[3]
NUM_UTTERANCES = 32
ONE_SHARD = {
    "batch_seconds": 0.1,  # every utterance alone
    "shard_seconds": 3600.0,
    "num_threads": 1,
    "device": "cpu",
    "audit_utterances": 0,
}
SLOW_STAGE = """
import sys, time
from pathlib import Path
from distillery.models.recogniser import Recogniser
from tasks.cache import cache
from tasks.stage import run_stage
forward = Recogniser.forward
def slow(*arguments):
    time.sleep(0.1)
    return forward(*arguments)
Recogniser.forward = slow
run_stage(cache, Path(sys.argv[1]), guard=False)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with a teacher, its cache empty, whose settings ask for a single shard."""
    put_teacher(tmp_path)
    write_params(tmp_path, tiny_params(cache=ONE_SHARD))
    return tmp_path


def complete(root: Path) -> PassReport:
    """Run the pass to its end, and compare what is there with what one without a stop leaves."""
    params, places = CacheParams.model_validate(ONE_SHARD), Places.in_workspace(root)
    report = fill_cache(places, load_teacher, params)
    clean = fill_cache(replace(places, cache=root / "clean"), load_teacher, params)
    assert report.manifest_sha256 == clean.manifest_sha256
    return report


def test_a_stage_that_is_told_to_stop_closes_its_shard(root: Path) -> None:
    cache = root / "data/teacher_cache"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_STAGE, str(root)], cwd=ROOT, stderr=subprocess.PIPE
    )
    while not list(cache.glob("*/.open-*.tmp")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    (folder,) = cache.glob("*/")
    assert not leftovers(folder)
    heard = len(TeacherCache(folder))
    assert 2 <= heard < NUM_UTTERANCES
    report = complete(root)
    assert (report.num_hits, report.num_teacher_forwards) == (heard, NUM_UTTERANCES - heard)


def test_so_does_one_that_is_interrupted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = interrupted_after(root, 10, monkeypatch)
    assert heard == 9  # all but the one that was being heard
    assert complete(root).num_hits == heard


def test_a_second_signal_on_the_heels_of_the_first_loses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stage gets them: one from the run, one from Linux when DVC has died of its own."""
    add = shards.ShardWriter.add

    def slow(writer: shards.ShardWriter, entry: shards.Entry) -> None:
        time.sleep(0.1)
        add(writer, entry)

    monkeypatch.setattr(shards.ShardWriter, "add", slow)
    raise_signal = signal.raise_signal

    def twice(number: int) -> None:
        monkeypatch.setattr(signal, "raise_signal", raise_signal)
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        raise_signal(number)

    monkeypatch.setattr(signal, "raise_signal", twice)
    assert interrupted_after(root, 4, monkeypatch) == 3
    monkeypatch.undo()
    assert complete(root).num_hits == 3


def interrupted_after(root: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Press Ctrl-C during a call of the teacher; return how many utterances are cached then."""
    forward, made = Recogniser.forward, []

    def count(*arguments: Any) -> Any:
        made.append(1)
        if len(made) == calls:
            signal.raise_signal(signal.SIGINT)
        return forward(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Recogniser, "forward", count)
        with pytest.raises(KeyboardInterrupt):
            fill_cache(
                Places.in_workspace(root), load_teacher, CacheParams.model_validate(ONE_SHARD)
            )
    (folder,) = (root / "data/teacher_cache").glob("*/")
    assert not leftovers(folder)
    return len(TeacherCache(folder))


def test_a_stop_is_heeded_when_the_block_has_ended() -> None:
    steps = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stop_held_back():
        signal.raise_signal(signal.SIGINT)
        steps.append("finished")
    assert steps == ["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_during_the_closing_of_a_shard_loses_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file = shards.replace_file

    def stopped(*arguments: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        replace_file(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "replace_file", stopped)
        with pytest.raises(KeyboardInterrupt):
            fill_cache(
                Places.in_workspace(root), load_teacher, CacheParams.model_validate(ONE_SHARD)
            )
    assert complete(root).num_hits == NUM_UTTERANCES


def test_threads_that_hear_no_signals_hold_none_back() -> None:
    done = []

    def work() -> None:
        with stop_held_back():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
