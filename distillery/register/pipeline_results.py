"""What a pipeline run left in the workspace, and what it was made from; read once, handed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.data.workspace import PREPARED
from distillery.errors import StageError
from distillery.evaluate.summary import Summary
from distillery.params.whole import Params

CACHE_DIGEST_TAG = "cache.manifest_sha256"
"""Of the lineage: which teacher cache the students learnt from."""


@dataclass(frozen=True)
class PipelineResults:
    """Where a run's material lies, and what it was made from."""

    root: Path
    """The workspace."""
    params: Params
    """The whole of params.yaml."""
    summary: Summary
    """What the evaluation found."""
    outputs: Mapping[str, str]
    """MD5 of each versioned output by its path."""
    tags: Mapping[str, str]
    """Lineage that every run bears."""
    artifacts: Sequence[Path]
    """Single files that the pipeline's run keeps."""

    @property
    def data_md5(self) -> str:
        """DVC's hash of the prepared data."""
        return self.md5_of(PREPARED)

    def md5_of(self, path: str) -> str:
        """Return DVC's hash of an output.

        Raises:
            StageError: dvc.lock does not name it.
        """
        if path not in self.outputs:
            raise StageError(f"dvc.lock: names no {path}; run make run first")
        return self.outputs[path]
