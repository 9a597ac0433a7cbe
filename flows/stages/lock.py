"""A workspace that is fit to run and owned by one run: its settings, its locks, its dvc.lock.

A crash may leave a lock of DVC's that nobody holds any more, a process that counts as alive, or a
truncated dvc.lock; each is put right before the next stage.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import psutil
import yaml

from distillery.errors import BusyError, ParamsError, StageError
from distillery.files import write_bytes
from distillery.params.file import PARAMS_FILE
from flows import doctor
from flows.doctor import DVC_LOCK, DVC_LOCK_GUARD, WORKSPACE_LOCK
from flows.stages.process import TERMINATION_SECONDS
from tasks.stage import PIPELINE_FILE, look_up

LOCK_FILE = "dvc.lock"

logger = logging.getLogger(__name__)


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


def wait_for_the_dying(root: Path) -> None:
    """Wait until the processes of a killed run have gone.

    A process that ended but whose end nobody has taken note of yet counts as alive for DVC.
    """
    path = root / DVC_LOCK
    end = time.monotonic() + TERMINATION_SECONDS
    while time.monotonic() < end:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not any(is_zombie(int(pid)) for pid in re.findall(r'"pid": *(\d+)', text)):
            return
        time.sleep(0.1)


def forget_the_dead(root: Path) -> None:
    """Free what a killed run's DVC has locked; DVC itself would warn of each file, in each call.

    A lock that is damaged stays for `doctor.free_dvc_lock`; one that DVC edits right now, for DVC.
    """
    path = root / DVC_LOCK
    if not path.exists():
        return
    unfit = contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError)
    with open(root / DVC_LOCK_GUARD, "a", encoding="utf-8") as guard, unfit:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held: Held = json.loads(path.read_text(encoding="utf-8"))
        alive = _of_the_living(held)
        if isinstance(held, dict) and alive != held:
            write_bytes(path, json.dumps(alive).encode())


class Owner(TypedDict):
    """What DVC notes of a process that works on a path."""

    pid: int
    cmd: str


class Held(TypedDict, total=False):
    """DVC's lock of paths: who writes each of them, and who reads it."""

    write: dict[str, Owner]
    read: dict[str, list[Owner]]


def _of_the_living(held: Held) -> Held:
    """Return what DVC's lock holds, without what processes hold that are no more."""

    def lives(owner: Owner) -> bool:
        return bool(psutil.pid_exists(int(owner["pid"])))

    alive: Held = {}
    if "write" in held:
        alive["write"] = {path: owner for path, owner in held["write"].items() if lives(owner)}
    if "read" in held:
        readers = {path: list(filter(lives, owners)) for path, owners in held["read"].items()}
        alive["read"] = {path: owners for path, owners in readers.items() if owners}
    return alive


def is_zombie(process_id: int) -> bool:
    """Return whether a process has ended without its parent having taken note."""
    try:
        return bool(psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def lock_bytes(root: Path) -> bytes | None:
    """Return the content of dvc.lock, None where there is none."""
    path = root / LOCK_FILE
    return path.read_bytes() if path.exists() else None


def restore_if_damaged(root: Path, former: bytes | None) -> None:
    """Put dvc.lock back to what it was where a crash has left half of it."""
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
