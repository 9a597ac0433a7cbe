"""Splits of data that were prepared before data/splits.csv was kept."""

from __future__ import annotations

from pathlib import Path

from distillery.data.workspace import PREPARED, SPLITS_FILE
from flows.stages.objects import locked_outs


def keep_former_splits(root: Path) -> None:
    """Write down which utterance is in which split, before DVC deletes the data that show it.

    Only where DVC has not kept the file yet: who deletes it later wants other splits.
    """
    if (root / SPLITS_FILE).exists() or SPLITS_FILE in locked_outs(root):
        return
    from distillery.prepare.kept import keep_splits_of  # pandas and more come with it

    keep_splits_of(root / PREPARED, root / SPLITS_FILE)
