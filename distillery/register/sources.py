"""TODO: sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.errors import StageError
from distillery.params.whole import Params


@dataclass(frozen=True)
class Sources:
    """Where a run's material lies, and what it was made from."""

    root: Path
    params: Params
    summary: Mapping[str, Any]
    """What reports/evaluation/summary.json holds."""
    outputs: Mapping[str, str]
    """MD5 of each versioned output by its path."""
    tags: Mapping[str, str]
    """Lineage that every run bears."""
    artifacts: Sequence[Path]
    """Single files that the parent run keeps."""


def _output(sources: Sources, path: str) -> str:
    if path not in sources.outputs:
        raise StageError(f"dvc.lock: names no {path}; run make run first")
    return sources.outputs[path]
