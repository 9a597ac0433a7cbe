"""A study's trainings, several side by side, until all are made or the time is up.

Each is a process of one thread. What is finished is kept, and what was broken off goes on from the
end of its last epoch, so a programme of days may be stopped and started at will.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from multiprocessing import get_context

import torch

from benchmarks.quality.runs import Run, Runs
from benchmarks.quality.settings import Study, Training
from distillery.errors import DistilleryError
from distillery.params.whole import Params

LOG_FILE = "runs/programme.log"
_WORKERS_RUNS: list[Runs] = []
"""Of this process, if it is a worker."""


class TimeIsUp(BaseException):
    """The programme's time has ended; no `Exception`, so that nothing on the way takes it."""


@dataclass
class Outcome:
    """What a programme did."""

    num_finished: int = 0
    left: list[Training] = field(default_factory=list)
    """What the time did not suffice for."""
    failed: dict[Training, str] = field(default_factory=dict)
    """What cannot be trained, and why."""


def next_time(clock: str, now: datetime) -> datetime:
    """Return when a clock will next show a time.

    Args:
        clock: as HH:MM.
        now: where the counting starts.

    Raises:
        ValueError: it is no time.
    """
    wanted = datetime.strptime(clock, "%H:%M").time()
    at = datetime.combine(now.date(), wanted)
    return at if at > now else at + timedelta(days=1)


def run_programme(
    runs: Runs,
    wanted: Sequence[Training],
    jobs: int,
    until: datetime | None,
    finished: Callable[[Training, Run], None],
) -> Outcome:
    """Train what is not trained yet.

    Args:
        runs: of the study.
        wanted: trainings in their order; several may be one and the same.
        jobs: how many side by side; with 1 in this process.
        until: when to end, whatever is unfinished then.
        finished: called here after each training.

    Returns:
        What was done and what is left. A training that fails breaks no other off.
    """
    outcome = Outcome()
    first = {runs.path(training): training for training in reversed(wanted)}
    todo = [t for t in dict.fromkeys(reversed(first.values())) if runs.finished(t) is None]
    train = partial(_train, until=until)
    made = _made_here(runs, todo, train) if jobs == 1 else _made_beside(runs, todo, train, jobs)
    for training, result in made:
        if isinstance(result, DistilleryError):
            outcome.failed[training] = str(result)
        elif result is None:
            outcome.left.append(training)
        else:
            outcome.num_finished += 1
            finished(training, result)
    return outcome


Result = Run | DistilleryError | None
"""What a training gave, why it cannot be made, or None: the time was up."""
Train = Callable[[Runs, Training], Result]


def _made_here(
    runs: Runs, todo: Sequence[Training], train: Train
) -> Iterator[tuple[Training, Result]]:
    for training in todo:
        yield training, train(runs, training)


def _made_beside(
    runs: Runs, todo: Sequence[Training], train: Train, jobs: int
) -> Iterator[tuple[Training, Result]]:
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_begin, initargs=(runs.study, runs.present)
    )
    try:
        futures: dict[Future[Result], Training] = {
            pool.submit(_train_in_worker, train, training): training for training in todo
        }
        for future in as_completed(futures):
            training = futures[future]
            try:
                yield training, future.result()
            except BrokenProcessPool:
                raise DistilleryError(
                    f"{training}: a process that trains was ended by somebody, perhaps for want of "
                    "memory; start the programme again, with fewer --jobs"
                ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(study: Study, present: Params) -> None:
    """Make a new process a worker of one thread, whose bars and warnings go to a file."""
    torch.set_num_threads(1)
    sys.stderr = open(study.workspace / LOG_FILE, "a", encoding="utf-8")  # noqa: SIM115
    _WORKERS_RUNS.append(Runs(study, present))


def _train_in_worker(train: Train, training: Training) -> Result:
    return train(_WORKERS_RUNS[0], training)


def _train(runs: Runs, training: Training, until: datetime | None) -> Result:
    try:
        with _until(until):
            return runs.result(training)
    except TimeIsUp:
        return None
    except DistilleryError as error:
        return error


@contextmanager
def _until(until: datetime | None) -> Iterator[None]:
    """Raise `TimeIsUp` inside at a time; at once, if it has passed."""
    if until is None:
        yield
        return
    seconds = (until - datetime.now()).total_seconds()
    if seconds <= 0:
        raise TimeIsUp
    before = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _stop(*_: object) -> None:
    raise TimeIsUp
