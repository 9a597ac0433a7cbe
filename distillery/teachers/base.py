"""What every kind of teacher answers to: settings and a workplace in, a teacher out.

One file per kind: `trained.py` trains one here, `registry.py` takes a registered student. The stage
`teacher` picks by `teacher.kind`, and saves and fingerprints what comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillery.manifest import PreparedData
from distillery.recogniser import Recogniser


@dataclass(frozen=True)
class Workplace:
    """What a teacher may be made from, and where."""

    data: PreparedData
    """Prepared data with transcribed training and validation utterances."""
    scratch: Path
    """Folder for packed features and checkpoints."""
    registered: Path
    """Folder of the registered model that the settings name, if they name one."""
    curves: Path
    """JSONL file that receives the learning curves; the last `valid/wer` is the teacher's."""


@dataclass(frozen=True)
class ReadyTeacher:
    """A teacher, and what its source leaves."""

    recogniser: Recogniser
    checkpoint: Path | None = None
    """To be removed once the teacher is saved."""
    source: dict[str, Any] | None = None
    """Where it comes from, for source.json; None: from here."""


GetTeacher = Callable[[Any, Workplace], ReadyTeacher]
"""Takes the settings of its own kind."""
