"""Where a corpus may lie: nowhere that stages write, or it would change under each run."""

from __future__ import annotations

from pathlib import Path

from distillery.data.workspace import CURVES, PREPARED, SPLITS_FILE, TEACHER_CACHE

OUTPUTS = (PREPARED, SPLITS_FILE, TEACHER_CACHE, "models", CURVES, "reports")
"""What stages write, from a workspace's root."""


def source_fault(root: Path, source: str) -> str | None:
    """Return why `prepare.source` cannot hold a corpus; None where it can.

    Args:
        root: the workspace.
        source: as the settings have it; links are followed.
    """
    corpus = (root / source).resolve()
    for name in OUTPUTS:
        output = (root / name).resolve()
        if output.is_relative_to(corpus):
            where = f"holds {name}"
        elif corpus.is_relative_to(output):
            where = f"lies in {name}"
        else:
            continue
        return (
            f"prepare.source: {source!r} {where}, which the stages write, expected a folder with "
            "the corpus alone; put it into one, such as data/raw, and set prepare.source to it"
        )
    return None
