"""What was decided about splits, brought back where a workspace lacks it."""

from __future__ import annotations

from pathlib import Path

from distillery.data.workspace import PREPARED, SPLITS_FILE
from flows.stages.objects import locked_outs
from flows.stages.process import Emit, run_dvc


def recover_splits(root: Path, emit: Emit) -> None:
    """Put data/splits.csv back before the stage `prepare` decides anew.

    In a fresh clone DVC has it, in its cache or remote. Data that were prepared before there was
    such a file show what was decided, and DVC is about to delete them. Where it alone is missing,
    somebody wants other splits.

    Args:
        root: the workspace.
        emit: receives a line where nothing could be brought back.
    """
    if (root / SPLITS_FILE).exists():
        return
    is_locked, is_prepared = SPLITS_FILE in locked_outs(root), (root / PREPARED).exists()
    if is_prepared and not is_locked:
        from distillery.prepare.kept import keep_splits_of  # pandas and more come with it

        keep_splits_of(root / PREPARED, root / SPLITS_FILE)
    elif is_locked and not is_prepared:
        run_dvc(root, ["pull", "--allow-missing", SPLITS_FILE], _say_nothing)
        if not (root / SPLITS_FILE).exists():
            emit(f"{SPLITS_FILE}: not in DVC's cache or remote; splits are drawn as the first time")


def _say_nothing(_line: str) -> None:
    pass
