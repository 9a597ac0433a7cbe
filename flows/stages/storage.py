"""What DVC keeps elsewhere: outputs sent to its remote, and brought back from there."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillery.credentials import without_credentials
from distillery.errors import StageError
from distillery.tracking.drivers import how_to_install
from flows.stages.objects import drop_damaged
from flows.stages.process import Emit, quiet_dvc, run_dvc
from flows.stages.remote import default_remote, fault_of

if TYPE_CHECKING:
    from dvc.output import Output

ERROR = "ERROR: "
MISSING = re.compile(r"requires '([\w-]+)' to be installed")
"""How DVC names a package that a kind of remote needs."""
RESTORE_ATTEMPTS = 3
"""From DVC's cache, from the remote where that was damaged, anew where that was, too."""
NUM_SHOWN = 3
"""Outputs that a line names; it counts the others."""
NOT_PULLED = "what is not here is made anew; make doctor looks at the remote, dvc pull tries again"


def push(root: Path, emit: Emit, seconds: float | None = None) -> None:
    """Send new data and models to the default remote.

    Args:
        root: the workspace.
        emit: receives each line that DVC writes.
        seconds: when to give up; None: never.

    Raises:
        StageError: DVC could not; nothing is lost, they stay in its cache.
    """
    remote = default_remote(root)
    # DVC would make a folder that is missing, also below a mount point where nothing is mounted.
    if remote and not remote.is_inside(root) and (fault := fault_of(root, remote)):
        raise StageError(
            f"dvc push to {remote.shown}: {fault}; run `dvc push` when the remote is reachable"
        )
    status, lines = run_dvc(root, ["push"], emit, seconds)
    if status:
        raise StageError(
            f"dvc push: failed; run `dvc push` when the remote is reachable: {_why(lines)}"
        )


def corpus_file(root: Path, source: str) -> Path | None:
    """Return the file by which DVC keeps the corpus, `data/raw/mine.dvc`; None: it does not."""
    path = Path(os.path.normpath(root / source) + ".dvc")
    return path if path.is_file() else None


def save_corpus(root: Path, source: str, emit: Emit) -> None:
    """Let DVC keep the corpus as it is now, where a person let it keep one, by `dvc add`.

    Else the next push would send data that were prepared from another one.

    Args:
        root: the workspace.
        source: the corpus, as the settings have it.
        emit: receives a line where DVC keeps it, or could not.
    """
    if (file := corpus_file(root, source)) is None:
        return
    status, lines = run_dvc(root, ["commit", "--force", str(file)], _say_nothing)
    done = "kept by DVC as it is now" if not status else f"not kept by DVC: {_why(lines)}"
    emit(f"{source}: {done}; {file.name} says so, and belongs into Git")


def lacking(root: Path, names: Iterable[str]) -> list[str]:
    """Return the outputs that dvc.lock names, and that are not here as it names them.

    What DVC has never saved is none of them: it may be the unfinished work of a run that was
    stopped. One of another day, such as before a `git pull`, is.

    Args:
        root: the workspace.
        names: DVC's names of stages that are not up to date.
    """
    from dvc.repo import Repo

    with quiet_dvc(), contextlib.chdir(root), Repo(str(root)) as repo:
        return [
            os.path.relpath(out.fs_path, root.resolve())
            for name in names
            for out in repo.stage.load_one(name=name).outs
            if out.hash_info and out.status() and _may_be_replaced(out)
        ]


def _may_be_replaced(out: Output) -> bool:
    """Return whether nothing is lost when DVC puts what dvc.lock names in an output's place."""
    if not out.exists:
        return True
    here = out.get_hash()
    return bool(here == out.hash_info or out.cache.exists(here.value))


def pull_lacking(
    root: Path, names: Iterable[str], emit: Emit, seconds: float | None = None
) -> list[str]:
    """Bring from the default remote what dvc.lock names and the workspace lacks.

    Where no remote is set, nothing is brought and nothing said.

    Args:
        root: the workspace.
        names: DVC's names of the stages that are not up to date.
        emit: receives a line where there is something to bring, and one for what the remote lacks.
        seconds: when to give up; None: never.

    Returns:
        The outputs that were lacking and are here now; the remote need not have them all.

    Raises:
        StageError: the remote cannot be used, or took too long.
    """
    stages = [*names]
    wanted = lacking(root, stages) if stages else []
    remote = default_remote(root) if wanted else None
    if remote is None:
        return []
    emit(f"from DVC's cache or its remote {remote.shown}: {_some(wanted)}")
    for _ in range(RESTORE_ATTEMPTS):
        status, lines = run_dvc(root, ["pull", "--allow-missing", *wanted], _say_nothing, seconds)
        if status:
            raise StageError(f"dvc pull from {remote.shown}: {_why(lines)}; {NOT_PULLED}")
        left = lacking(root, stages)
        here = [name for name in wanted if name not in left]
        if not (damaged := drop_damaged(root, here)):
            break
        emit(f"damaged in DVC's cache, and dropped: {', '.join(damaged)}")
    if left and not remote.is_inside(root) and (fault := fault_of(root, remote)):
        raise StageError(f"dvc pull from {remote.shown}: {fault}; {NOT_PULLED}")
    if left:
        emit(f"not at DVC's remote {remote.shown}, so made anew: {_some(left)}")
    return here


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NUM_SHOWN])
    more = len(names) - NUM_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _why(lines: Sequence[str]) -> str:
    """Return DVC's last error in a line, and what to install where it lacks that."""
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    said = errors[-1] if errors else "; ".join(lines)
    said = without_credentials(said.removeprefix("unexpected error - "))
    if missing := MISSING.search(said):
        return f"{said}; {how_to_install(missing[1].replace('-', '_'))}"
    return said


def fetch_objects(root: Path, names: Sequence[str], emit: Emit) -> None:
    """Bring from the default remote into DVC's cache what outputs consist of, if it has that."""
    status, _ = run_dvc(root, ["fetch", *names], emit)
    if status:
        emit("not from the remote, or not all of it")


def _say_nothing(_line: str) -> None:
    pass
