"""The password of the servers that a workspace starts: made once, readable by its owner alone.

Loopback belongs to every user of a machine, and whoever may use Prefect's API can have code run as
its owner. So the servers of `make ui`, `make schedule` and of a run ask for the password; our own
clients have it from here, and a person has it from the file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

import psutil

from distillery.errors import StageError

PASSWORD_FILE = ".prefect/password"
USER = "distillery"
"""For servers that want a name, too."""
SERVER_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"
CLIENT_VARIABLE = "PREFECT_API_AUTH_STRING"
NUM_BYTES = 24
OWNER_ALONE = 0o600


def password(root: Path) -> str:
    """Return the password of a workspace's servers, made at the first call.

    Args:
        root: the workspace.

    Raises:
        StageError: others own, read or write the file.
    """
    path = root / PASSWORD_FILE
    with contextlib.suppress(FileNotFoundError):
        return _read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ALONE)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"{secrets.token_urlsafe(NUM_BYTES)}\n")
    try:
        with contextlib.suppress(FileExistsError):  # another command was first
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return _read(path)


def _read(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, encoding="utf-8") as file:
        status = os.fstat(handle)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise StageError(
                f"{path}: owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}, expected "
                f"{os.geteuid()} and 600: others may know the password; stop the servers and "
                "delete it, the next start makes another"
            )
        return file.read().strip()


def for_server(root: Path) -> str:
    """Return what a Prefect server of ours shall ask for: what is set, or the workspace's own."""
    return os.environ.get(SERVER_VARIABLE) or password(root)


def is_ours(port: int) -> bool:
    """Return whether what listens on a port of this machine is a process of this user.

    Another user may take the port of a server that died, and would be told the password.
    """
    for found in psutil.net_connections("tcp"):
        if found.status == psutil.CONN_LISTEN and found.laddr.port == port:
            # Of other users' processes, the number is hidden from all but root.
            with contextlib.suppress(psutil.Error):
                if found.pid is not None and psutil.Process(found.pid).uids().real == os.getuid():
                    continue
            return False
    return True


def check_ours(port: int) -> None:
    """Make sure that what listens on a port is a process of this user, before it is trusted.

    Raises:
        StageError: it is somebody else's.
    """
    if not is_ours(port):
        raise StageError(
            f"port {port} of 127.0.0.1: a process of another user listens there, expected our own "
            "server; choose another port"
        )
