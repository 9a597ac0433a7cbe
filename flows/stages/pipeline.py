"""Stages through DVC: is one up to date, run it, and believe the result only after a look.

`dvc repro` may return 0 although outputs did not reach its cache (full disk), and a crash can
leave a truncated dvc.lock. So a stage counts as done when dvc.lock reads well and DVC's own status
of the stage is empty. DVC must be asked from the main thread only.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import yaml

from distillery.errors import BusyError, ParamsError, StageError
from distillery.files import write_bytes
from distillery.params.whole import PARAMS_FILE, Params
from flows import doctor, environment
from flows.doctor import DVC_LOCK, WORKSPACE_LOCK
from flows.stages import objects as dvc_cache
from tasks.stage import PIPELINE_FILE, look_up

STAGES = ("prepare", "fetch", "teacher", "cache", "distill", "evaluate")
LOCK_FILE = "dvc.lock"

KEPT_LINES = 30
BAR_INTERVAL_SECONDS = 5.0
TERMINATION_SECONDS = 10.0
EXIT_TIMEOUT = 124
RESTORE_ATTEMPTS = 3
"""From DVC's cache, from the remote where that was damaged, anew where that was, too."""
BUSY_SIGNS = ("is busy, it is being blocked", "Unable to acquire lock")
HINTS = (
    "To track the changes with git",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",  # the flow pushes where there is a remote
)
STAGE_FAILED = re.compile(r"ERROR: failed to reproduce '.*': failed to run: ")
"""DVC says so after the stage itself said why."""
RESTORED_SIGN = "is cached - skipping run"

Outcome = Literal["unchanged", "ran", "restored"]
Emit = Callable[[str], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRun:
    """What became of one stage."""

    target: str
    outcome: Outcome
    seconds: float


def targets(params: Params, stage: str) -> list[str]:
    """Return DVC's names of one stage: for `distill` one per student and seed."""
    if stage == "distill":
        distill = params.distill
        return [distill_target(name, seed) for name in distill.students for seed in distill.seeds]
    return [stage]


def distill_target(student: str, seed: int) -> str:
    """Return DVC's name of one student's stage under one seed, `distill@conv-0`."""
    return f"distill@{student}-{seed}"


def check_followed_settings(root: Path) -> None:
    """Make sure that params.yaml holds every key that dvc.yaml names.

    DVC follows settings by name in the file and knows no defaults.

    Raises:
        ParamsError: keys are missing; the message lists them.
    """
    pipeline = yaml.safe_load((root / PIPELINE_FILE).read_text(encoding="utf-8"))["stages"]
    values = yaml.safe_load((root / PARAMS_FILE).read_text(encoding="utf-8"))
    names = [
        name for spec in pipeline.values() for name in spec.get("params", []) if "${" not in name
    ]
    if missing := [name for name in dict.fromkeys(names) if look_up(values, name) is None]:
        raise ParamsError(
            f"{root / PARAMS_FILE}: {', '.join(missing)} not set, but DVC follows "
            "these by name; write them out (a section of defaults is {})"
        )


def check_workspace(root: Path, *, needs_corpus: bool = True) -> None:
    """Make sure that a workspace is fit to run; a lock that a dead DVC left is deleted.

    Args:
        root: the workspace.
        needs_corpus: whether what will run reads the corpus.

    Raises:
        ParamsError: params.yaml lacks what DVC follows.
        StageError: something else is wrong; the message says what to do.
    """
    check_followed_settings(root)
    if fault := doctor.free_dvc_lock(root):
        logger.warning("%s; no DVC runs here, so it was deleted", fault)
    problems = [
        f"{finding.check}: {finding.found}; {finding.advice}"
        for finding in doctor.quick_checks(root)
        if not finding.ok and (needs_corpus or finding.check not in ("corpus", "voices"))
    ]
    if problems:
        raise StageError("\n       ".join(problems))


@contextlib.contextmanager
def workspace_lock(root: Path) -> Iterator[None]:
    """Own the workspace until the block ends; the kernel frees it when the process dies.

    Raises:
        BusyError: another run owns it.
    """
    path = root / WORKSPACE_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(f"already running: pid {file.read().strip()}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def changed_targets(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return DVC's status of some stages: those that are up to date are absent.

    Raises:
        BusyError: another DVC process works here.
        StageError: DVC cannot tell, for instance because dvc.lock is damaged.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    def ask() -> dict[str, Any]:
        # DVC takes targets relative to the current folder, whatever the repository.
        with contextlib.chdir(root), Repo(str(root)) as repo:
            status: dict[str, Any] = repo.status(targets=list(names))
            return status

    use_git_if_present(root)
    _wait_for_the_dying(root)
    try:
        try:
            return ask()
        except (KeyError, TypeError, ValueError):  # what DVC makes of a damaged list of files
            if not (damaged := dvc_cache.drop_damaged_folders(root)):
                raise
            logger.warning("damaged in DVC's cache, and dropped: %s", ", ".join(map(str, damaged)))
            return ask()
    except LockError as error:
        raise BusyError(f"DVC is busy in {root}: {error}; wait for it, then run again") from error
    except DvcException as error:
        if any(sign in str(error) for sign in BUSY_SIGNS):
            raise BusyError(f"DVC is busy in {root}: {error}") from error
        raise StageError(f"DVC cannot tell the state of {root}: {_chain(error)}") from error


def _wait_for_the_dying(root: Path) -> None:
    """Wait until the processes of a killed run have gone.

    A process that ended but whose end nobody has taken note of yet counts as alive for DVC.
    """
    path = root / DVC_LOCK
    end = time.monotonic() + TERMINATION_SECONDS
    while time.monotonic() < end:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not any(map(is_zombie, re.findall(r'"pid": *(\d+)', text))):
            return
        time.sleep(0.1)


def is_zombie(process_id: str) -> bool:
    """Return whether a process has ended without its parent having taken note."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"


def use_git_if_present(root: Path) -> None:
    """Let DVC work in a folder that came without its Git history, such as an unpacked archive."""
    local = root / ".dvc/config.local"
    if not any((folder / ".git").exists() for folder in [root, *root.parents]):
        text = local.read_text(encoding="utf-8") if local.exists() else ""
        if "no_scm" not in text:
            write_bytes(local, f"{text}[core]\n    no_scm = true\n".encode())


def run_stage(root: Path, target: str, emit: Emit) -> StageRun:
    """Bring one stage up to date, if it is not, and verify what DVC says about it.

    Args:
        root: the workspace.
        target: DVC's name of the stage, such as `distill@conv-0`.
        emit: receives each line that the stage writes.

    Raises:
        BusyError: another DVC process works here.
        StageError: the stage failed, or DVC does not confirm its outputs.
    """
    start = time.monotonic()
    if not changed_targets(root, [target]):
        return StageRun(target, "unchanged", time.monotonic() - start)
    status, lines = _reproduce_whole(root, target, emit)
    tail = "\n".join(lines)
    if status:
        if any(sign in tail for sign in BUSY_SIGNS):
            raise BusyError(f"stage {target}: DVC is busy here; run again when it is done\n{tail}")
        raise StageError(f"stage {target}: {_reason(lines, status)}")
    if left := changed_targets(root, [target]):
        raise StageError(
            f"stage {target}: ended well, but DVC does not confirm it: {left}; is the disk full? "
            f"Make room, then run again\n{tail}"
        )
    restored = any(RESTORED_SIGN in line for line in lines)
    return StageRun(target, "restored" if restored else "ran", time.monotonic() - start)


class Pipeline:
    """One pass over the stages of a workspace.

    DVC is asked about all stages at once, and again for each stage only after one ran, or when
    `look_again` is called because files changed in between.
    """

    def __init__(self, root: Path, params: Params) -> None:
        self.root = root
        self.anything_ran = False
        self._names = [name for stage in STAGES for name in targets(params, stage)]
        self._changed: Container[str] | None = None

    def look_again(self) -> None:
        """Forget what DVC said."""
        self._changed = None

    def bring_up_to_date(self, target: str, emit: Emit) -> StageRun:
        """Run one stage if it needs to; see `run_stage`."""
        start = time.monotonic()
        if self._changed is None:
            self._changed = changed_targets(self.root, self._names)
        if not self.anything_ran and target not in self._changed:
            return StageRun(target, "unchanged", time.monotonic() - start)
        done = run_stage(self.root, target, emit)
        self.anything_ran |= done.outcome != "unchanged"
        return done


def push(root: Path, emit: Emit, seconds: float | None = None) -> None:
    """Send new data and models to the default remote.

    Args:
        root: the workspace.
        emit: receives each line that DVC writes.
        seconds: when to give up; None: never.

    Raises:
        StageError: DVC could not; nothing is lost, they stay in its cache.
    """
    status, lines = run_dvc(root, ["push"], emit, seconds)
    if status:
        tail = "\n".join(lines)
        raise StageError(f"dvc push: failed; run `dvc push` when the remote is reachable\n{tail}")


def pull_missing(root: Path, emit: Emit, seconds: float | None = None) -> list[str]:
    """Bring from the default remote what dvc.lock names and the workspace lacks.

    What is here stays as it is: it may be the unfinished work of a run that was stopped.

    Args:
        root: the workspace.
        emit: receives each line that DVC writes.
        seconds: when to give up; None: never.

    Returns:
        The outputs that were missing and are here now; the remote need not have them all.

    Raises:
        StageError: DVC could not.
    """
    from tasks.lineage import locked_outputs  # it takes time, and most runs do without

    if not (root / LOCK_FILE).exists():
        return []
    outputs = locked_outputs(root / LOCK_FILE)
    missing = sorted(name for name in outputs if not (root / name).exists())
    if not missing:
        return []
    for _ in range(RESTORE_ATTEMPTS):
        status, lines = run_dvc(root, ["pull", "--allow-missing", *missing], emit, seconds)
        if status:
            tail = "\n".join(lines)
            raise StageError(f"dvc pull: failed; is the remote reachable?\n{tail}")
        here = [name for name in missing if (root / name).exists()]
        if not (damaged := dvc_cache.drop_damaged(root, here)):
            break
        emit(f"damaged in DVC's cache, and dropped: {', '.join(damaged)}")
    return [name for name in missing if (root / name).exists()]


def fetch_objects(root: Path, names: Sequence[str], emit: Emit) -> None:
    """Bring from the default remote into DVC's cache what outputs consist of, if it has that."""
    status, _ = run_dvc(root, ["fetch", *names], emit)
    if status:
        emit("not from the remote, or not all of it")


def _reproduce_whole(root: Path, target: str, emit: Emit) -> tuple[int, Sequence[str]]:
    """Run a stage through DVC; what came from DVC's cache instead is whole, or made again."""
    for attempt in range(RESTORE_ATTEMPTS):
        status, lines = _reproduce(root, target, emit)
        if status:
            damaged = [str(path) for path in dvc_cache.drop_damaged_folders(root)]
        elif any(RESTORED_SIGN in line for line in lines):
            outs = dvc_cache.locked_outs(root, target)
            damaged = dvc_cache.drop_damaged(root, outs)
        else:
            damaged = []
        if not damaged or attempt == RESTORE_ATTEMPTS - 1:
            break
        emit(f"{target}: damaged in DVC's cache, and dropped: {', '.join(damaged)}")
        if attempt == 0 and not status:
            fetch_objects(root, list(outs), emit)
    return status, lines


def _reproduce(root: Path, target: str, emit: Emit) -> tuple[int, Sequence[str]]:
    former = _lock_bytes(root)
    try:
        return run_dvc(root, ["repro", "--single-item", target], emit)
    finally:
        _restore_if_damaged(root, former)


def run_dvc(
    root: Path, arguments: Sequence[str], emit: Emit, seconds: float | None = None
) -> tuple[int, Sequence[str]]:
    """Run DVC as a child in a session of its own; nothing of it outlives this call.

    Args:
        root: the workspace.
        arguments: of `dvc`.
        emit: receives each line, without advice that is not for this pipeline.
        seconds: how long it may take; None: as long as it likes.

    Returns:
        The exit status and the last lines.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.servers.child", "dvc", *arguments],
        cwd=root,
        env=environment.for_stages(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    late = threading.Event()
    timer = threading.Timer(seconds or 0.0, _stop_late, (process, late))
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        for line, is_bar in read_lines(process.stdout):
            if not is_bar:
                lines.append(line)
            if not line.startswith(HINTS) and not STAGE_FAILED.match(line):
                emit(line)
        status = process.wait()
    finally:
        timer.cancel()
        _end(process)
    if late.is_set():
        lines.append(f"stopped, for it took longer than {seconds:g} s")
        status = status or EXIT_TIMEOUT
    return status, lines


def _stop_late(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
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


def _reason(lines: Sequence[str], status: int) -> str:
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        start = list(lines).index(f"error: {errors[-1]}")
        following = [line for line in list(lines)[start + 1 :] if not line.startswith("ERROR:")]
        return "\n".join([errors[-1], *following])
    return f"failed with status {status}; its last lines:\n" + "\n".join(lines)


def _lock_bytes(root: Path) -> bytes | None:
    path = root / LOCK_FILE
    return path.read_bytes() if path.exists() else None


def _restore_if_damaged(root: Path, former: bytes | None) -> None:
    path = root / LOCK_FILE
    if path.exists() and not _lock_reads(path.read_bytes()):
        logger.error("%s was damaged; its former content is put back", path)
        if former is None:
            path.unlink()
        else:
            write_bytes(path, former)


def _lock_reads(content: bytes) -> bool:
    try:
        parsed = yaml.safe_load(content)
    except yaml.YAMLError:
        return False
    return isinstance(parsed, dict) and isinstance(parsed.get("stages"), dict)


def _chain(error: BaseException) -> str:
    parts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        parts.append(str(error))
    return ": ".join(part for part in parts if part)
