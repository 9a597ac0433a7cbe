"""The nights of a plan, one after the other, in a workspace whose deployment is served."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillery.corpora.base import Recording
from distillery.errors import StageError
from distillery.params.file import PARAMS_FILE
from distillery.params.register import RegisterParams
from distillery.register.aliases import read_aliases
from distillery.tracking.store import Tracking
from examples.week.deliveries import (
    ARCHIVE_SPEAKERS,
    SENTENCES,
    VALID_SPEAKERS,
    Deliveries,
    num_speakers,
    recordings,
    split_by_speaker,
)
from examples.week.plan import Day, Morning, outcome
from examples.week.workspace import (
    ARCHIVE,
    git,
    lay_out,
    python,
    teacher_settings,
    use_settings,
)
from flows import environment
from flows.doctor import WORKSPACE_LOCK
from flows.looking_back import history
from flows.looking_back.history import Retraining
from flows.servers import server
from flows.servers.password import CLIENT_VARIABLE, for_server

GRAMMAR = "examples/week-grammar.yaml"
DEPLOYMENT = "retraining/schedule"
NIGHT_SECONDS = 1800.0
START_SECONDS = 120.0
POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def schedule(workspace: Path, log: Path) -> Iterator[None]:
    """Serve the deployment as `make schedule` does, until the block ends."""
    port = server.free_port()
    with contextlib.chdir(workspace):
        process = server.start_child(
            "flows.servers.schedule",
            f"--prefect-port={port}",
            log=log,
            environment={"PREFECT_RUNNER_POLL_FREQUENCY": "2"},
        )
    ours = {"PREFECT_API_URL": server.api_on(port), CLIENT_VARIABLE: for_server(workspace)}
    os.environ.update(ours)
    try:
        server.wait_for("Prefect", f"{server.api_on(port)}/health", process, log)
        yield
    finally:
        for name in ours:
            del os.environ[name]
        server.stop(process)


def night(workspace: Path) -> Retraining:
    """Run the deployment once, now, and return the line that it left in the history."""
    from prefect.deployments import run_deployment  # it reads its settings when imported
    from prefect.exceptions import ObjectNotFound

    end = time.monotonic() + START_SECONDS
    while True:
        try:
            done: Any = run_deployment(
                DEPLOYMENT, timeout=NIGHT_SECONDS, poll_interval=POLL_SECONDS, as_subflow=False
            )
            break
        except ObjectNotFound:  # the schedule is not served yet
            if time.monotonic() > end:
                raise StageError(f"{DEPLOYMENT}: not served within {START_SECONDS:g} s") from None
            time.sleep(POLL_SECONDS)
    wait_for_the_process(workspace)
    for record in reversed(history.read_history(workspace)):
        if record.flow_run == str(done.id):
            return record
    raise StageError(f"flow run {done.id}: {done.state}, but the history has no line of it")


def wait_for_the_process(workspace: Path) -> None:
    """Let the process of a run end, too: whoever ends the schedule before cancels the run."""
    pid = int((workspace / WORKSPACE_LOCK).read_text())
    end = time.monotonic() + START_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(POLL_SECONDS)
    time.sleep(POLL_SECONDS)


def champion(workspace: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the champion's version."""
    register = RegisterParams.model_validate(settings["register"])
    tracking = Tracking(register, workspace)
    return read_aliases(tracking, register.model_name).champion


def live(
    root: Path,
    place: Path,
    plan: Sequence[Day],
    settings: Mapping[str, Any],
    teacher_epochs: int,
) -> list[Morning]:
    """Live through the days of a plan.

    Args:
        root: the repository.
        place: a folder for clone and logs; what it held is deleted.
        plan: the days.
        settings: of the nights.
        teacher_epochs: how long the teacher is trained.

    Raises:
        DistilleryError: a command or night failed in a way that is no part of the plan.
    """
    workspace, log = lay_out(root, place), place / "log.txt"
    environment.apply(workspace)
    archive, pool = split_by_speaker(recordings(root / GRAMMAR, num_speakers(plan)))
    _make_teacher(workspace, archive, teacher_settings(settings, teacher_epochs), log)
    use_settings(workspace, settings)
    git(workspace, "add", PARAMS_FILE, "dvc.lock")
    git(workspace, "commit", "--quiet", "--message", "Settings of the nights")
    deliveries = Deliveries(workspace / settings["prepare"]["source"], pool)
    mornings = []
    with schedule(workspace, place / "schedule.txt"):
        for day in plan:
            deliveries.deliver(day)
            record = night(workspace)
            mornings.append(Morning(day, record, champion(workspace, settings)))
            logger.info("%s: %s; %s", day.name, record.status, outcome(record))
            if day.rollback:
                python(workspace, log, "distillery.commands.main", "rollback")
                mornings[-1] = replace(mornings[-1], rolled_back_to=champion(workspace, settings))
                logger.info("%s: rolled back", day.name)
    return mornings


def _make_teacher(
    workspace: Path, archive: Sequence[Recording], settings: Mapping[str, Any], log: Path
) -> None:
    arriving = ARCHIVE_SPEAKERS * SENTENCES - VALID_SPEAKERS * SENTENCES
    Deliveries(workspace / ARCHIVE, archive).deliver(Day(ARCHIVE, arriving))
    with open(workspace / ".git/info/exclude", "a", encoding="utf-8") as file:
        file.write(f"/{ARCHIVE}/\n/deliveries/\n")
    use_settings(workspace, settings)
    python(workspace, log, "flows.run", "--trigger", "teacher")
