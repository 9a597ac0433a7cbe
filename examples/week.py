"""A week of scheduled retraining in fast motion: python -m examples.week [--out FILE]

Everything is real but the clock: the flow runs from the deployment that `make schedule` serves,
started by hand instead of by cron; DVC, MLflow, the gate and the rollback are the ones of every
day. It happens in a clone of this repository, as committed, under scratch/week, which stays for a
look around. The recordings are generated speech (corpus `commands`).

The teacher is trained once, before the week, on speakers that the week never hears, and
registered. As registered models are students, what is registered is the teacher's network, begun
from its weights (`init: teacher`) and trained for two more epochs.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import soundfile
import yaml

from distillery.corpora.base import Recording
from distillery.corpora.commands import read_commands
from distillery.errors import DistilleryError, StageError
from distillery.files import write_bytes
from distillery.params.file import PARAMS_FILE
from distillery.params.prepare import CommandsParams, PrepareParams
from distillery.params.register import RegisterParams
from distillery.register.aliases import read_aliases
from distillery.tracking.store import Tracking
from examples.week_page import PLOT_FILE, WEEK, Day, Morning, report, said, table
from flows import environment
from flows.doctor import WORKSPACE_LOCK
from flows.looking_back import history
from flows.looking_back.history import Retraining
from flows.servers import server

PLACE = "scratch/week"
SETTINGS = "examples/week.yaml"
GRAMMAR = "examples/week-grammar.yaml"
DEPLOYMENT = "retraining/schedule"
ARCHIVE = "archive"
"""What the teacher learns from; no night reads it."""
ARCHIVE_SPEAKERS, VALID_SPEAKERS, TEST_SPEAKERS = 12, 2, 6
SENTENCES = 20
TEACHER_EPOCHS = 30
NIGHT_SECONDS = 1800.0
START_SECONDS = 120.0
POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


# --- recordings -----------------------------------------------------------------------------------


@dataclass
class Row:
    """One line of the manifest, and the recording that belongs there."""

    recording: Recording
    split: str
    text: str
    broken: bool = False


class Deliveries:
    """A corpus folder that grows."""

    def __init__(self, folder: Path, pool: Sequence[Recording]) -> None:
        """Begin with the validation and test splits.

        Args:
            folder: of the corpus.
            pool: recordings that may arrive, in their order, behind those of the two splits.
        """
        self.folder = folder
        self._rows: list[Row] = []
        speakers = list(dict.fromkeys(item.speaker for item in pool if item.split == "train"))
        valid = set(speakers[:VALID_SPEAKERS])
        self._to_come = [x for x in pool if x.split == "train" and x.speaker not in valid]
        for item in pool:
            if item.split == "test" or item.speaker in valid:
                self._add(Row(item, "test" if item.split == "test" else "valid", str(item.text)))
        self._write_manifest()

    def deliver(self, day: Day) -> None:
        """Let a day's recordings arrive."""
        if day.mended:
            for row in self._rows:
                if row.broken:
                    row.broken = False
                    self._write_audio(row)
                row.text = str(row.recording.text)
        new, self._to_come = self._to_come[: day.recordings], self._to_come[day.recordings :]
        if len(new) < day.recordings:
            raise StageError(f"{day.name}: {day.recordings} recordings, only {len(new)} are left")
        texts = [str(item.text) for item in new]
        if day.shifted:
            texts = [*texts[1:], *texts[:1]]
        for number, (item, text) in enumerate(zip(new, texts, strict=True)):
            self._add(Row(item, "train", text, broken=number < day.broken))
        self._write_manifest()

    def _add(self, row: Row) -> None:
        self._rows.append(row)
        self._write_audio(row)

    def _path(self, row: Row) -> Path:
        return self.folder / f"{row.recording.utterance_id}.flac"

    def _write_audio(self, row: Row) -> None:
        path = self._path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, rate_hz = row.recording.decode()
        soundfile.write(path, samples, rate_hz)
        if row.broken:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])

    def _write_manifest(self) -> None:
        with open(self.folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "text", "speaker", "split"])
            for row in self._rows:
                item = row.recording
                writer.writerow([self._path(row).name, row.text, item.speaker, row.split])


def recordings(grammar: Path, num_speakers: int) -> list[Recording]:
    """Return generated speech: training speakers one after the other, then the test speakers."""
    wanted = CommandsParams(
        num_train_speakers=num_speakers,
        num_test_speakers=TEST_SPEAKERS,
        sentences_per_speaker=SENTENCES,
    )
    settings = PrepareParams(corpus="commands", source=str(grammar), commands=wanted)
    return list(read_commands(settings, grammar))


def split_by_speaker(pool: Sequence[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Return the archive and the week's recordings; the test speakers are in both."""
    speakers = list(dict.fromkeys(item.speaker for item in pool if item.split == "train"))
    first = set(speakers[:ARCHIVE_SPEAKERS])
    archive = [item for item in pool if item.split == "test" or item.speaker in first]
    week = [item for item in pool if item.split == "test" or item.speaker not in first]
    return archive, week


def num_speakers(plan: Sequence[Day]) -> int:
    """Return how many training speakers archive and week need."""
    arriving = sum(day.recordings for day in plan)
    return ARCHIVE_SPEAKERS + VALID_SPEAKERS + -(-arriving // SENTENCES)


# --- the workspace --------------------------------------------------------------------------------


def lay_out(root: Path, place: Path) -> Path:
    """Clone the repository, as committed, and return the clone."""
    workspace = place / "workspace"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    _git(root, "clone", "--quiet", str(root), str(workspace))
    _git(workspace, "config", "user.name", "week")
    _git(workspace, "config", "user.email", "week@localhost")
    return workspace


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"git {arguments[0]}: {done.stderr.strip()}; make week needs a Git clone")
    return done.stdout.strip()


def teacher_settings(nights: Mapping[str, Any], num_epochs: int) -> dict[str, Any]:
    """Return settings that train and register the teacher of the nights."""
    network = {"type": "conv_bilstm", "conv_channels": 16, "hidden_size": 128, "num_layers": 2}
    training = {**nights["distill"]["training"], "batch_seconds": 10.0, "learning_rate": 3.0e-3}
    distill = {
        **nights["distill"],
        "objective": {"teacher_share": 0.0},
        "training": training | {"num_epochs": 2, "learning_rate": 1.0e-4},
        "students": {"teacher": {"architecture": {**network}, "init": "teacher"}},
    }
    return {
        **nights,
        "prepare": {**nights["prepare"], "source": ARCHIVE},
        "teacher": {
            "kind": "trained",
            "architecture": {**network, "dropout": 0.2},
            "features": dict(nights["distill"]["features"]),
            "training": training | {"num_epochs": num_epochs},
            "allow_poor": True,
        },
        "distill": distill,
        "register": {
            **nights["register"],
            "experiment": "week-teacher",
            "model_name": nights["teacher"]["model"].split("/")[1],
        },
    }


def use_settings(workspace: Path, settings: Mapping[str, Any]) -> None:
    """Write params.yaml."""
    text = yaml.safe_dump(dict(settings), sort_keys=False)
    write_bytes(workspace / PARAMS_FILE, text.encode())


def _python(workspace: Path, log: Path, *arguments: str) -> None:
    """Run a module of the workspace, as its make target does."""
    with open(log, "ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=workspace,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise StageError(f"python -m {' '.join(arguments)}: failed; see {log}")


# --- the week -------------------------------------------------------------------------------------


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
    os.environ["PREFECT_API_URL"] = server.api_on(port)
    try:
        server.wait_for("Prefect", f"{server.api_on(port)}/health", process, log)
        yield
    finally:
        del os.environ["PREFECT_API_URL"]
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
    _git(workspace, "add", PARAMS_FILE, "dvc.lock")
    _git(workspace, "commit", "--quiet", "--message", "Settings of the nights")
    deliveries = Deliveries(workspace / settings["prepare"]["source"], pool)
    mornings = []
    with schedule(workspace, place / "schedule.txt"):
        for day in plan:
            deliveries.deliver(day)
            record = night(workspace)
            mornings.append(Morning(day, record, champion(workspace, settings)))
            logger.info("%s: %s; %s", day.name, record.status, said(record))
            if day.rollback:
                _python(workspace, log, "distillery.commands.main", "rollback")
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
    _python(workspace, log, "flows.run", "--trigger", "teacher")


def main(arguments: Sequence[str] | None = None) -> int:
    """Live through the week and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.week", description=__doc__)
    parser.add_argument("--out", type=Path, help="where the page goes; scratch/week/week.md")
    options = parser.parse_args(arguments)
    root, start = Path.cwd(), time.monotonic()
    logging.basicConfig(format="%(message)s", stream=sys.stdout, force=True)
    logger.setLevel(logging.INFO)  # of others only warnings
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    place = root / PLACE
    out = options.out or place / "week.md"
    settings = yaml.safe_load((root / SETTINGS).read_text("utf-8"))
    try:
        commit = _git(root, "rev-parse", "HEAD")
        mornings = live(root, place, WEEK, settings, TEACHER_EPOCHS)
    except DistilleryError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    page = report(mornings, commit, time.monotonic() - start, out.with_suffix(".png").name)
    write_bytes(out, page.encode())
    shutil.copyfile(place / "workspace" / PLOT_FILE, out.with_suffix(".png"))
    sys.stdout.write(f"\n{table(mornings)}\n\n{out}; look around: cd {place / 'workspace'} && ")
    sys.stdout.write(f"{sys.executable} -m flows.servers.ui\n")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
