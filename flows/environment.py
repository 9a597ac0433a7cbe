"""Settings of Prefect, DVC and MLflow that this project wants, where the user set none.

Telemetry of all three is off (MLflow's settings stand in distillery/tracking/store.py). Call
`apply` before the first import of any of them.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
from pathlib import Path

from distillery.commands import surroundings
from distillery.errors import DistilleryError
from distillery.tracking import store as tracking
from tasks.stage import STARTER

DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is a pickle
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}

UTF_8 = {"PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
"""For children that write into our pipes and logs, whatever the terminal can show."""
FAILED = "Finished in state Failed("
"""What Prefect logs of tasks and flows, and then the error again."""
WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
BRIEFLY = "1000"
"""Turns of a waiting thread's loop, some microseconds."""

KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""GNU's allocator gives a step's tensors back to the system, which clears each page for the next
step: a twentieth of a small student's. So it keeps what was freed, 256 MB at most."""

# What comes out as lines of a log has no use for a bar, and its room is for loss and WER.
BAR = "{desc}: {percentage:3.0f} % {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def apply(root: Path) -> None:
    """Set what is not set yet, for this process and its children."""
    surroundings.settle()
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    tracking.set_defaults()
    os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))


def for_stages() -> dict[str, str]:
    """Return the environment of a stage's process: this Python first, lines at once, calm bars."""
    return {
        **os.environ,
        STARTER: str(os.getpid()),
        "PATH": path_with_this_python(),
        "PYTHONUNBUFFERED": "1",
        **UTF_8,
        # DVC starts stages through it. Bash replaces itself by the stage, so that no shell stands
        # between the two and the stage notices when DVC dies.
        "SHELL": shutil.which("bash") or "/bin/sh",
        "TQDM_MININTERVAL": "5",
        "TQDM_NCOLS": "120",
        "TQDM_BAR_FORMAT": BAR,
        **_waiting(),
        **{name: value for name, value in KEPT_MEMORY.items() if name not in os.environ},
    }


def path_with_this_python() -> str:
    """Return PATH with the commands of this Python's environment first, activated or not."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return os.pathsep.join(folders)


def _waiting() -> dict[str, str]:
    """Return how long a stage's threads spin before they sleep, while they wait for one another.

    GNU's OpenMP spins for milliseconds. Where eight processes that began later want the same two
    processors, a training of two threads then makes next to no step. Some microseconds keep its
    speed on an idle machine, and its steps a CPU second within a fifth beside the eight
    (benchmarks/shared_machine.py). Results are the same.
    """
    if WAIT_POLICY in os.environ or SPIN_COUNT in os.environ:
        return {}
    return {SPIN_COUNT: BRIEFLY}


def expected_errors_without_traceback() -> None:
    """Let Prefect log what we raise on purpose by its message, for where it came from says nothing.

    Mistakes of ours keep their tracebacks.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_traceback)


def expected_errors_once() -> None:
    """Keep from the terminal what Prefect says of errors that we raise on purpose.

    For a command that ends with the error itself; a warning that two stages have is said once.
    Prefect's pages keep all of it.
    """
    importlib.import_module("prefect.main")  # sets up the handlers
    for handler in logging.getLogger().handlers:
        handler.addFilter(_unless_said_at_the_end)
        handler.addFilter(UnlessSaidBefore())


class UnlessSaidBefore(logging.Filter):
    """Lets each warning through once, whoever says it."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether it is no warning, or a new one."""
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        is_new = text not in self._said
        self._said.add(text)
        return is_new


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], DistilleryError):
        record.exc_info = None
        record.is_expected = True
    return True


def _unless_said_at_the_end(record: logging.LogRecord) -> bool:
    is_expected = record.levelno >= logging.ERROR and getattr(record, "is_expected", False)
    return not (is_expected or record.getMessage().startswith(FAILED))
