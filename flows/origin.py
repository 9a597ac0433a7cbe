"""Where a run began: which host, which boot of it, which process, which workspace.

Several hosts may share a Prefect server or a disk, and bear one name and one path. So who says that
another run is dead compares more than these. It holds the workspace's lock, which proves that
nobody else of this host works there, and nothing about other hosts.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

from distillery.files import write_bytes
from flows.doctor import CLOCK_SECONDS

HOST, WORKSPACE = "distillery.host", "distillery.workspace"
IDENTITY, BOOT = "distillery.workspace_id", "distillery.boot"
PROCESS, STARTED = "distillery.process", "distillery.process_started"
IDENTITY_FILE = ".dvc/tmp/distillery.id"
Labels = Mapping[str, bool | int | float | str]
"""As Prefect has them."""
BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


def workspace_labels(root: Path) -> dict[str, str]:
    """Return the host and the path of a workspace, as a person knows them."""
    return {HOST: socket.gethostname(), WORKSPACE: str(root.resolve())}


def origin(root: Path) -> dict[str, str]:
    """Return what tells a run of this process in a workspace from all others."""
    return {
        **workspace_labels(root),
        IDENTITY: _identity(root),
        BOOT: BOOT_FILE.read_text("ascii").strip(),
        PROCESS: str(os.getpid()),
        STARTED: repr(psutil.Process().create_time()),
    }


def began_here(found: Labels, root: Path) -> bool:
    """Return whether a run began in this very workspace, on this very host, as far as one can know.

    With another boot of a host of this name it is either this host's former one or another host's:
    a process that began since this host was started is another's.

    Args:
        found: a run's origin; what says less is of no known place.
        root: the workspace.
    """
    here = origin(root)
    if any(found.get(name) != here[name] for name in (HOST, WORKSPACE, IDENTITY)):
        return False
    return found.get(BOOT) == here[BOOT] or _started(found) < psutil.boot_time()


def is_alive(found: Labels) -> bool:
    """Return whether the process of a run that began on this host is still there.

    Another process may have its number by now, but began at another time.
    """
    try:
        began = psutil.Process(int(str(found[PROCESS]))).create_time()
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
    return bool(abs(began - _started(found)) <= CLOCK_SECONDS)


def _started(found: Labels) -> float:
    try:
        return float(str(found[STARTED]))
    except (KeyError, ValueError):
        return float("inf")


def _identity(root: Path) -> str:
    """Return a workspace's own name, made once."""
    path = root / IDENTITY_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, uuid.uuid4().hex.encode())
    return path.read_text("ascii")
