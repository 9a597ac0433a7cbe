"""DVC as a child process: its lines as they come, and nothing of it left when the call ends."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

from flows import environment

THIS_CODE = Path(__file__).resolve().parents[2]
KEPT_LINES = 30
BAR_INTERVAL_SECONDS = 5.0
TERMINATION_SECONDS = 10.0
EXIT_TIMEOUT = 124
HINTS = (
    "To track the changes with git",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",  # the flow pushes where there is a remote
    "Generating lock file",  # both in every stage
    "Updating lock file",
)
"""What DVC says and is not for this pipeline."""
EMPTY_CURVES = re.compile(r"WARNING: 'curves/controls/[^']+' is empty\.")
"""DVC says so where no control was trained, which is no fault."""
STAGE_FAILED = re.compile(r"ERROR: failed to reproduce '.*': failed to run: ")
"""DVC says so after the stage itself said why."""
TRACEBACK = "Traceback (most recent call last):"
WARNING = "warning: "
"""With which a stage begins what it warns of."""
ERRORS = ("error: ", TRACEBACK)
"""With one of these begins what a stage says of an error that ends it."""
Emit = Callable[[str], None]
"""Receives each line that DVC or a stage writes."""


def run_dvc(
    root: Path, arguments: Sequence[str], emit: Emit, seconds: float | None = None
) -> tuple[int, Sequence[str]]:
    """Run DVC as a child in a session of its own; nothing of it outlives this call.

    Args:
        root: the workspace. Stages run its own code; the code that starts them, and ends with
            this process, is ours also where the workspace's is of another day.
        arguments: of `dvc`.
        emit: receives each line, without advice that is not for this pipeline.
        seconds: how long it may take; None: as long as it likes.

    Returns:
        The exit status and the last lines. Where it failed, what it said of the error is among them
        and was not emitted: `reason` says it.
    """
    path = [str(THIS_CODE), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = start_child(
        root,
        # -P: not what the workspace calls `flows`, if it has any.
        ["-P", "-m", "flows.servers.child", "dvc", *arguments],
        {"PYTHONPATH": os.pathsep.join(path)},
    )
    assert process.stdout is not None
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    held = _HeldBack(emit)
    late = threading.Event()
    timer = threading.Timer(seconds or 0.0, _stop_late, (process, late))
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        for line, is_bar in read_lines(process.stdout):
            if not is_bar:
                lines.append(line)
            if not is_noise(line):
                held.take(line)
        status = process.wait()
    finally:
        timer.cancel()
        end(process)
    if not status:
        held.release()
    if late.is_set():
        lines.append(f"stopped, for it took longer than {seconds:g} s")
        status = status or EXIT_TIMEOUT
    return status, lines


@contextlib.contextmanager
def quiet_dvc() -> Iterator[None]:
    """Keep what DVC logs in this process to itself: it would come twice, by its way and by ours.

    What it fails of it raises. As a child it has its say, see `run_dvc`.
    """
    from dvc.logger import set_loggers_level

    with set_loggers_level(logging.CRITICAL):
        yield


@dataclass(frozen=True)
class SayOnce:
    """Lets warnings through once, of whatever process of a run: one trains, the next one saves."""

    said: set[str] = field(default_factory=set)

    def through(self, emit: Emit) -> Emit:
        """Return what emits a line, unless it is a warning that was said."""

        def once(line: str) -> None:
            if line in self.said:
                return
            if line.startswith(WARNING):
                self.said.add(line)
            emit(line)

        return once


def is_noise(line: str) -> bool:
    """Return whether a line of DVC's tells nobody anything here."""
    return bool(line.startswith(HINTS) or STAGE_FAILED.match(line) or EMPTY_CURVES.match(line))


@dataclass
class _HeldBack:
    """Emits lines, but for those of an error, which whoever ends the run says."""

    emit: Emit
    lines: list[str] | None = None
    """Those held back; None: no error was said so far."""

    def take(self, line: str) -> None:
        if line.startswith(ERRORS):
            self.release()
            self.lines = [line]
        elif self.lines is None:
            self.emit(line)
        else:
            self.lines.append(line)
            if len(self.lines) > KEPT_LINES:
                self.emit(self.lines.pop(0))

    def release(self) -> None:
        """Emit what was held back after all."""
        for line in self.lines or ():
            self.emit(line)
        self.lines = None


def start_child(
    root: Path, arguments: Sequence[str], variables: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """Start this Python in a session of its own; main threads alone may, for stages die with them.

    Args:
        root: its current folder.
        arguments: its arguments.
        variables: of its environment, beside those of every stage.
    """
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env={**environment.for_stages(), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def reason(lines: Sequence[str], status: int) -> str:
    """Return why a stage failed, from its last lines."""
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        start = list(lines).index(f"error: {errors[-1]}")
        following = [line for line in list(lines)[start + 1 :] if not line.startswith("ERROR:")]
        return "\n".join([errors[-1], *following])
    shown = list(lines)
    if TRACEBACK in shown:
        shown = shown[len(shown) - 1 - shown[::-1].index(TRACEBACK) :]
    return f"failed with status {status}; its last lines:\n" + "\n".join(shown)


def _stop_late(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started, and wait until they are gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(TERMINATION_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        if not _group_lives(process.pid, TERMINATION_SECONDS):
            break
    if process.stdout:
        process.stdout.close()


def _group_lives(group: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True


def read_lines(stream: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Yield lines as they come, with whether one is a progress bar's state.

    A bar redraws itself after carriage returns; of its states one every few seconds comes through.
    """
    pending, shown = b"", 0.0
    while chunk := os.read(stream.fileno(), 65536):
        pending += chunk
        *pieces, pending = re.split(rb"(?<=[\r\n])", pending)
        for piece in pieces:
            is_bar = piece.endswith(b"\r")
            text = _plain(piece)
            if not text or (is_bar and time.monotonic() - shown < BAR_INTERVAL_SECONDS):
                continue
            if is_bar:
                shown = time.monotonic()
            yield text, is_bar
    if text := _plain(pending):
        yield text, False


def _plain(piece: bytes) -> str:
    text = piece.decode("utf-8", "replace").strip("\r\n").rstrip()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
