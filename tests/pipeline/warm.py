"""Commands of a workspace in processes that need not import PyTorch, MLflow and DVC anew.

One process has imported what is large and not ours. For every command it forks a child, which
takes that command's folder, environment and output, imports the workspace's own code, and runs it
to its end: a process of its own as ever, without seconds of imports. Prefect is left to the child,
for it reads its settings when it is imported.
"""

from __future__ import annotations

import atexit
import importlib
import io
import json
import os
import runpy
import subprocess
import sys
import threading
import traceback
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

LARGE = (
    "alembic",
    "dvc.cli",
    "dvc.commands.repro",
    "dvc.repo",
    "fastapi",
    "httpx",
    "matplotlib.figure",
    "mlflow",
    "pandas",
    "pyarrow.parquet",
    "scipy.fft",
    "sqlalchemy.ext.asyncio",
    "torch",
    "torchaudio",
)
OURS = ("distillery", "flows", "tasks")


@dataclass(frozen=True)
class Command:
    """What a child is to become."""

    root: str
    """Its current folder, whose code it runs."""
    arguments: list[str]
    """A module and its arguments."""
    output: str
    """The file that takes what it writes."""
    variables: dict[str, str] = field(repr=False)
    """Its environment."""


def run(command: Command, seconds: float) -> int:
    """Run a command in a child of the warm process and return its exit status.

    Args:
        command: what to run.
        seconds: how long it may take.

    Raises:
        TimeoutError: it takes longer; it is ended.
    """
    warm = _process(frozenset(_constant(command.variables).items()))
    assert warm.stdin is not None and warm.stdout is not None
    _send(warm.stdin, json.dumps(asdict(command)))
    pid = int(warm.stdout.readline())
    late = threading.Timer(seconds, os.kill, (pid, 9))
    late.start()
    status = int(warm.stdout.readline())
    was_late = not late.is_alive()
    late.cancel()
    if was_late:
        raise TimeoutError(f"{command.arguments}: not done within {seconds:g} s")
    return status


def _constant(variables: dict[str, str]) -> dict[str, str]:
    """Return what libraries read when they are imported, or loaded."""
    return {name: value for name, value in variables.items() if name.startswith(("OMP", "PATH"))}


@cache
def _process(constant: frozenset[tuple[str, str]]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.pipeline.warm"],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, **dict(constant), "DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process


def _send(stream: IO[str], line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def main() -> None:
    """Be the warm process, until standard input ends."""
    for name in LARGE:
        importlib.import_module(name)
    assert not [name for name in sys.modules if name.partition(".")[0] in (*OURS, "prefect")]
    for line in sys.stdin:
        command = Command(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            _become(command)
        _send(sys.stdout, str(pid))
        _send(sys.stdout, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def _become(command: Command) -> NoReturn:
    os.chdir(command.root)
    os.environ.clear()
    os.environ.update(command.variables)
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, command.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        handle = os.open(path, flags, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(1, 2)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w")), "utf-8", line_buffering=True
    )
    sys.path[0:1] = [
        command.root,
        *filter(None, command.variables.get("PYTHONPATH", "").split(":")),
    ]
    module, *_ = sys.argv = list(command.arguments)
    os._exit(_status_of(module))


def _status_of(module: str) -> int:
    """Run a module as Python's `-m` does, with what comes at the end of a process."""
    status: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            sys.stderr.write(f"{status}\n")
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status if isinstance(status, int) else int(status is not None)


if __name__ == "__main__":
    main()
