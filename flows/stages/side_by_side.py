"""Students, seeds and controls side by side: a process each, before DVC asks for them in turn.

A training leaves the checkpoint of its last epoch. The stage that DVC runs next takes it up, trains
no more and saves: DVC's lock is held only to commit, the bytes are those of one training after
another, and a killed process costs what it did since its last checkpoint, for its stage goes on
from there.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from distillery.data.cores import usable_cores
from distillery.errors import StageError
from distillery.params.whole import Params
from flows.stages.process import (
    BAR_INTERVAL_SECONDS,
    KEPT_LINES,
    WARNING,
    Emit,
    end,
    read_lines,
    reason,
    start_child,
)
from tasks.stage import EXIT_ERROR

JOBS = "DISTILLERY_JOBS"
"""Environment variable: how many trainings may run side by side, whatever the machine has."""
BYTES_PER_JOB = 2 * 2**30
"""Memory that must be free for each: PyTorch takes 0.5 GB, and batches the rest."""
BAR = re.compile(r"^(?P<name>.+?):\s+(?P<percent>\d+) % .*?(?P<wer>wer=[\d.]+%)?\]?$")
GPU_FILE = re.compile(r"nvidia(\d+)")


@dataclass
class Job:
    """One training."""

    target: str
    """DVC's name of the stage that saves it."""
    arguments: Sequence[str]
    """Of Python."""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    """The last ones that it wrote."""
    state: str = ""
    """How far it is, in words."""
    warnings: deque[str] = field(default_factory=deque)
    """What it warned of, to be said."""


def jobs_of(target: str, params: Params) -> list[Job]:
    """Return the trainings of one stage; the control's comes first, for it tells a poor teacher."""
    student, _, seed = target.partition("@")[2].rpartition("-")
    roles = ("control", "student") if params.distill.control else ("student",)
    return [Job(target, ["-m", "tasks.distill", student, seed, "--ahead", role]) for role in roles]


def places(params: Params) -> list[dict[str, str]]:
    """Return where trainings may run at once: the environment variables of each place.

    A place is a GPU, or as many cores as `distill.training.num_threads` says. A GPU that the
    settings name by its number is the only one.
    """
    training = params.distill.training
    if training.device.startswith("cuda:"):
        found: list[dict[str, str]] = [{}]
    elif training.device != "cpu" and (gpus := _gpus()):
        found = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
    else:
        by_cores = usable_cores() // training.num_threads
        by_memory = psutil.virtual_memory().available // BYTES_PER_JOB
        found = [{} for _ in range(max(1, min(by_cores, by_memory)))]
    wanted = os.environ.get(JOBS, "")
    if not wanted:
        return found
    if not wanted.isdecimal() or int(wanted) < 1:
        raise StageError(f"{JOBS}={wanted!r}: expected a number of trainings from 1 on")
    return [found[place % len(found)] for place in range(int(wanted))]


def _gpus() -> list[str]:
    """Return the GPUs that this process may use; PyTorch would take seconds to tell."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    names = (GPU_FILE.fullmatch(path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((name[1] for name in names if name), key=int)


def train(root: Path, jobs: Sequence[Job], where: Sequence[dict[str, str]], emit: Emit) -> None:
    """Run trainings side by side until all have ended, as many at once as there are places.

    Args:
        root: the workspace.
        jobs: what to train; those in front begin first.
        where: environment variables of each place.
        emit: receives a line every few seconds that says how far each is.

    Raises:
        StageError: one failed, which ends the others. One that was killed does not count: its stage
            goes on where it was.
    """
    waiting, free = deque(jobs), list(where)
    running: dict[int, tuple[Job, dict[str, str], subprocess.Popen[bytes]]] = {}
    ended: queue.Queue[int] = queue.Queue()
    say = _Speaker(emit)
    try:
        while waiting or running:
            while waiting and free:
                job, place = waiting.popleft(), free.pop(0)
                process = start_child(root, job.arguments, place)
                running[process.pid] = (job, place, process)
                _read(process, job, ended)
            say.warnings(jobs)
            say.how_far([job for job, _, _ in running.values()])
            with contextlib.suppress(queue.Empty):
                job, place, process = running.pop(ended.get(timeout=1.0))
                free.append(place)
                if process.wait() == EXIT_ERROR:
                    raise StageError(f"stage {job.target}: {reason(job.lines, EXIT_ERROR)}")
    finally:
        say.warnings(jobs)
        for _, _, process in running.values():
            end(process)


def _read(process: subprocess.Popen[bytes], job: Job, ended: queue.Queue[int]) -> None:
    """Follow what a training writes, in a thread of its own, and say when it has ended."""

    def follow() -> None:
        assert process.stdout is not None
        with process.stdout as stream, contextlib.suppress(OSError, ValueError):
            for line, is_bar in read_lines(stream):
                if is_bar:
                    job.state = _state(line) or job.state
                else:
                    job.lines.append(line)
                    if line.startswith(WARNING):
                        job.warnings.append(line)
        ended.put(process.pid)

    threading.Thread(target=follow, daemon=True).start()


def _state(bar: str) -> str:
    """Return a progress bar in a few words: `student conv seed 0 41 %, wer=30.2%`."""
    if not (found := BAR.match(bar)):
        return ""
    parts = [f"{found['name'].strip()} {found['percent']} %", found["wer"]]
    return ", ".join(part for part in parts if part)


@dataclass
class _Speaker:
    """Says how far trainings are, all in a line, now and then."""

    emit: Emit
    last: float = 0.0

    def warnings(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            while job.warnings:
                self.emit(job.warnings.popleft())

    def how_far(self, jobs: Sequence[Job]) -> None:
        states = [job.state for job in jobs if job.state]
        if states and time.monotonic() - self.last >= BAR_INTERVAL_SECONDS:
            self.last = time.monotonic()
            self.emit(" | ".join(states))
