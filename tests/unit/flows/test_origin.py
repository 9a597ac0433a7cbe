"""Runs of several hosts on one Prefect server: which of them began here, and which are alive."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import origin as origins
from flows.looking_back import history
from flows.looking_back.history import Retraining
from flows.origin import began_here, is_alive, origin
from flows.retraining import end_what_was_left

STARTED_AFTER_US = str(time.time())
STARTED_BEFORE_THE_BOOT = str(psutil.boot_time() - 3600)


def test_a_run_of_this_workspace_began_here(tmp_path: Path) -> None:
    assert began_here(origin(tmp_path), tmp_path)
    assert origin(tmp_path)[origins.HOST] == socket.gethostname()


@pytest.mark.parametrize(
    "changes",
    [
        {origins.HOST: "another host, the workspace on a shared disk"},
        {origins.IDENTITY: "of another disk, under the same name and path"},
        {origins.WORKSPACE: "/a/copy/of/this/workspace"},
        {origins.BOOT: "another host of the same name", origins.STARTED: STARTED_AFTER_US},
    ],
)
def test_a_run_of_elsewhere_did_not(tmp_path: Path, changes: dict[str, str]) -> None:
    assert not began_here(origin(tmp_path) | changes, tmp_path)


def test_a_run_from_before_this_host_was_restarted_began_here(tmp_path: Path) -> None:
    former = {origins.BOOT: "the former one", origins.STARTED: STARTED_BEFORE_THE_BOOT}
    assert began_here(origin(tmp_path) | former, tmp_path)


def test_a_run_that_does_not_say_where_it_began_did_so_elsewhere(tmp_path: Path) -> None:
    full = origin(tmp_path)
    assert not began_here({}, tmp_path)
    assert not began_here(
        {name: full[name] for name in (origins.HOST, origins.WORKSPACE)}, tmp_path
    )
    assert not began_here(full | {origins.BOOT: "?", origins.STARTED: "?"}, tmp_path)


def test_two_workspaces_under_one_path_are_two(tmp_path: Path) -> None:
    found = origin(tmp_path)
    (tmp_path / origins.IDENTITY_FILE).unlink()
    assert not began_here(found, tmp_path)


def test_a_process_is_alive_until_it_ends_and_another_of_its_number_is_not_it(
    tmp_path: Path,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = {
        origins.PROCESS: str(child.pid),
        origins.STARTED: repr(psutil.Process(child.pid).create_time()),
    }
    assert is_alive(process)
    assert not is_alive(process | {origins.STARTED: str(psutil.boot_time())})
    child.communicate(b"\n")
    assert not is_alive(process)
    assert not is_alive({})


# --- what a run finds that another has left -------------------------------------------------------


def left_behind(root: Path, **changes: str) -> Retraining:
    """Leave what a run leaves that is on, or was killed."""
    run = Retraining("a", "schedule", "2026-01-31T03:00:00+00:00", origin=origin(root) | changes)
    run.step = "distill@conv-0"
    history.begin(root, run)
    return run


def test_a_run_that_was_killed_here_has_crashed(tmp_path: Path) -> None:
    left_behind(tmp_path)
    assert "was killed at step distill@conv-0" in str(end_what_was_left(tmp_path))
    assert [row.status for row in history.read_history(tmp_path)] == ["crashed"]
    assert end_what_was_left(tmp_path) is None


def test_a_run_of_another_host_has_vanished_and_its_own_end_counts(tmp_path: Path) -> None:
    run = left_behind(tmp_path, **{origins.HOST: "the-other-host"})
    said = str(end_what_was_left(tmp_path))
    assert "began on a host the-other-host that is not this one" in said
    assert socket.gethostname() in said
    (row,) = history.read_history(tmp_path)
    assert (row.status, row.step) == ("vanished", "distill@conv-0")
    page = (tmp_path / "reports/retraining/a.md").read_text()
    assert "was last seen at the step `distill@conv-0`" in page
    history.close(tmp_path, run, "finished")  # it was alive
    (row,) = history.read_history(tmp_path)
    assert row.status == "finished"
    assert "finished" in (tmp_path / "reports/retraining/a.md").read_text()
