"""What DVC keeps elsewhere: outputs sent to its remote, and brought back from there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distillery.credentials import without_credentials
from distillery.errors import StageError
from distillery.tracking.drivers import how_to_install
from flows.stages.lock import LOCK_FILE
from flows.stages.objects import drop_damaged
from flows.stages.process import Emit, run_dvc

ERROR = "ERROR: "
MISSING = re.compile(r"requires '([\w-]+)' to be installed")
"""How DVC names a package that a kind of remote needs."""
RESTORE_ATTEMPTS = 3
"""From DVC's cache, from the remote where that was damaged, anew where that was, too."""


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
        raise StageError(
            f"dvc push: failed; run `dvc push` when the remote is reachable: {_said(lines)}"
        )


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
            raise StageError(f"dvc pull: failed; is the remote reachable? {_said(lines)}")
        here = [name for name in missing if (root / name).exists()]
        if not (damaged := drop_damaged(root, here)):
            break
        emit(f"damaged in DVC's cache, and dropped: {', '.join(damaged)}")
    return [name for name in missing if (root / name).exists()]


def fetch_objects(root: Path, names: Sequence[str], emit: Emit) -> None:
    """Bring from the default remote into DVC's cache what outputs consist of, if it has that."""
    status, _ = run_dvc(root, ["fetch", *names], emit)
    if status:
        emit("not from the remote, or not all of it")


def _said(lines: Sequence[str]) -> str:
    """Return DVC's last error in a line, and what to install where it lacks that."""
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    said = errors[-1] if errors else "; ".join(lines)
    said = without_credentials(said.removeprefix("unexpected error - "))
    if missing := MISSING.search(said):
        return f"{said}; {how_to_install(missing[1].replace('-', '_'))}"
    return said
