"""Processes that are killed as by a power cut, told to stop, or in each other's way."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import yaml

from flows.looking_back import history
from tests.pipeline.conftest import copy_of, kill, run_module, start_module
from tests.pipeline.test_flow import (
    left_behind,
    lock,
    outputs,
    versions,
    wait_for,
)
from tests.pipeline.test_retraining import add_recording, settings
from tests.stores import mlflow_of
from tests.tiny import tiny_params, write_params

STEPS = ("prepare", "fetch", "teacher", "cache", "distill@conv-0", "evaluate", "register")


def kill_at(root: Path, step: str) -> None:
    """Start a retraining and kill it as soon as this step has begun, its process included."""
    process = start_module(root, "flows.run", "--retrain")
    end = time.monotonic() + 240
    while not (at(root) == step and (step == "register" or runs(root, step.partition("@")[0]))):
        assert process.poll() is None, (root / "out.log").read_text()
        assert time.monotonic() < end, f"{step} did not begin"
        time.sleep(0.01)
    kill(process)


def at(root: Path) -> str:
    record = history.unfinished(root)
    return record.step if record else ""


def runs(root: Path, stage: str) -> bool:
    """Return whether a stage's process is alive in the workspace."""
    wanted = f"tasks.{stage}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if wanted in arguments and (process / "cwd").resolve() == root:
                return True
        except OSError:
            continue
    return False


@pytest.mark.slow
def test_a_retraining_killed_once_in_every_stage_ends_as_an_unbroken_one(
    untouched: Path, tmp_path: Path
) -> None:
    broken, unbroken = (copy_of(untouched, tmp_path / name) for name in ("broken", "unbroken"))
    for root in (broken, unbroken):
        settings(root, epochs=6)
        values = yaml.safe_load((root / "params.yaml").read_text())
        values["distill"]["students"]["conv"]["architecture"]["channels"] = 12  # for `fetch`
        write_params(root, values)
        add_recording(root)
    for step in STEPS:
        before = lock(broken)
        kill_at(broken, step)
        # A stage that was still importing ends when it would begin.
        wait_for(lambda: not left_behind(broken), 60)
        after = lock(broken)
        assert after.get(step) == before.get(step), step  # it does not count as done
        assert history.unfinished(broken) is not None
    run_module(broken, "flows.run", "--retrain")
    run_module(unbroken, "flows.run", "--retrain")
    assert outputs(broken) == outputs(unbroken)
    assert versions(broken) == versions(unbroken) == [1]
    *crashed, last = history.read_history(broken)
    assert [(row.status, row.step) for row in crashed] == [("crashed", step) for step in STEPS]
    assert last.status == "finished"
    assert history.unfinished(broken) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_run_that_is_told_to_stop_does_so_and_the_next_goes_on(
    copy: Path, number: signal.Signals, status: int
) -> None:
    settings(copy, epochs=400)
    process = start_module(copy, "flows.run", "--retrain")
    wait_for(lambda: list((copy / "scratch").glob("student-conv-seed-0-*.pt")), 240)
    wait_for(lambda: (copy / "scratch/open_run.json").exists())
    run = json.loads((copy / "scratch/open_run.json").read_text())["run"]
    start = time.monotonic()
    process.send_signal(number)
    assert process.wait(60) == status, (copy / "out.log").read_text()
    wait_for(lambda: not left_behind(copy), 10)
    assert time.monotonic() - start < 30
    (record,) = history.read_history(copy)
    assert (record.status, record.step) == ("cancelled", "distill@conv-0")
    assert mlflow_of(copy).get_run(run).info.status == "KILLED"
    output = run_module(copy, "flows.run", "--retrain").stdout
    assert "goes on after epoch" in output
    assert history.read_history(copy)[-1].status == "finished"


@pytest.mark.slow
def test_dvc_by_hand_and_a_run_refuse_each_other_and_whoever_was_first_goes_on(copy: Path) -> None:
    values = tiny_params()
    values["teacher"]["training"]["num_epochs"] = 1_000_000
    write_params(copy, values)
    by_hand, by_run = ("dvc", "repro", "-s", "teacher"), ("flows.run", "--only", "teacher")
    for first, second, status in ((by_hand, by_run, 75), (by_run, by_hand, 255)):
        process = start_module(copy, *first)
        try:
            wait_for(lambda: runs(copy, "teacher"))
            refused = run_module(copy, *second, check=False)
            assert refused.returncode == status, refused.stdout
            assert "busy" in refused.stdout
            assert process.poll() is None
            assert runs(copy, "teacher")
        finally:
            kill(process)
        wait_for(lambda: not left_behind(copy), 60)
