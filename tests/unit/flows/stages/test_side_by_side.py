"""Trainings side by side: how many at once, what is said, and what one that ends badly costs."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from distillery.errors import StageError
from distillery.params.whole import Params
from flows.stages import side_by_side
from flows.stages.process import SayOnce
from flows.stages.side_by_side import Job, jobs_of, places, train
from tests.tiny import tiny_params

BAR = "control conv seed 0:  41 % 123/300 [00:09<00:13, 13.6step/s, loss=1.234, wer=30.2%]"


def python(code: str) -> Job:
    return Job("distill@conv-0", ["-c", code])


def params(**training: object) -> Params:
    plain = tiny_params()
    plain["distill"]["training"] |= training
    return Params.model_validate(plain)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine of eight cores, enough memory and no GPU."""
    monkeypatch.delenv(side_by_side.JOBS, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(side_by_side, "usable_cores", lambda: 8)
    memory = psutil.virtual_memory()._replace(available=64 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    return monkeypatch


def test_there_is_a_place_for_each_thread_that_fits_the_cores(machine: pytest.MonkeyPatch) -> None:
    assert places(params(num_threads=1)) == [{}] * 8
    assert places(params(num_threads=3)) == [{}] * 2
    assert places(params(num_threads=16)) == [{}]


def test_memory_bounds_the_places(machine: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=3 * side_by_side.BYTES_PER_JOB + 1)
    machine.setattr(psutil, "virtual_memory", lambda: memory)
    assert len(places(params(num_threads=1))) == 3


def test_every_gpu_is_a_place_and_the_user_has_the_last_word(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    gpus = [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert places(params(num_threads=1)) == gpus
    assert places(params(num_threads=1, device="cpu")) == [{}] * 8
    assert places(params(num_threads=1, device="cuda:1")) == [{}], "one GPU, by its own number"
    machine.setenv(side_by_side.JOBS, "3")
    assert places(params(num_threads=1)) == [*gpus, gpus[0]]
    machine.setenv(side_by_side.JOBS, "none")
    with pytest.raises(StageError, match="DISTILLERY_JOBS='none': expected a number"):
        places(params(num_threads=1))


def test_a_stage_has_a_training_for_the_student_and_one_for_its_control() -> None:
    both = jobs_of("distill@my-net-7", params())
    assert [job.arguments[2:] for job in both] == [
        ["my-net", "7", "--ahead", role] for role in ("control", "student")
    ]
    plain = tiny_params(distill={"control": False})
    (one,) = jobs_of("distill@conv-0", Params.model_validate(plain))
    assert one.arguments[-1] == "student"


def test_as_many_run_at_once_as_there_are_places_each_with_its_variables(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, time\n"
        "start = time.time(); time.sleep(0.3)\n"
        "with open('log', 'a') as log: log.write(f\"{os.environ['GPU']} {start} {time.time()}\\n\")"
    )
    where = [{"GPU": "a"}, {"GPU": "b"}]
    train(tmp_path, [python(code) for _ in range(4)], where, lambda _: None)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(place for place, *_ in lines) == ["a", "a", "b", "b"]
    spans = [(float(start), float(end)) for _, start, end in lines]
    at_once = [sum(start < moment < end for start, end in spans) for moment, _ in spans]
    assert max(at_once) <= 2


def test_one_that_fails_ends_the_others_and_says_why(tmp_path: Path) -> None:
    slow = python("import time; time.sleep(60)")
    bad = python("import sys; print('error: no sense'); print('in this'); sys.exit(1)")
    start = time.monotonic()
    with pytest.raises(StageError, match="stage distill@conv-0: no sense\nin this"):
        train(tmp_path, [slow, bad], [{}, {}], lambda _: None)
    assert time.monotonic() - start < 30
    assert not [child for child in psutil.Process().children() if "sleep(60)" in str(child)]


def test_one_that_is_killed_leaves_the_others_alone(tmp_path: Path) -> None:
    killed = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    other = python("import pathlib, time; time.sleep(0.5); pathlib.Path('done').touch()")
    train(tmp_path, [killed, other], [{}, {}], lambda _: None)
    assert (tmp_path / "done").exists()


def test_bars_come_as_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "BAR_INTERVAL_SECONDS", 0.0)
    said: list[str] = []
    jobs = [
        python(f"import time; print({bar!r}, end='\\r', flush=True); time.sleep(2.5)")
        for bar in (BAR, BAR.replace("control", "student").replace(", wer=30.2%", ""))
    ]
    train(tmp_path, jobs, [{}, {}], said.append)
    assert "control conv seed 0 41 %, wer=30.2% | student conv seed 0 41 %" in said


def test_warnings_come_at_once_and_other_lines_with_the_stage(tmp_path: Path) -> None:
    said: list[str] = []
    once = SayOnce()
    loud = "print('one'); print('warning: few frames')"
    train(tmp_path, [python(loud), python(loud)], [{}, {}], once.through(said.append))
    once.through(said.append)("warning: few frames")  # by the stage that saves
    assert said == ["warning: few frames"]
