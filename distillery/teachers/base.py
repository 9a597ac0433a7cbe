"""What a teacher is to everybody else, and what every kind of teacher answers to.

A teacher turns batches of waveforms into what is cached of it. `Recogniser`, which every model
trained here is, answers to `Teacher`; so does every pre-trained one. One file per kind: settings
and a workplace in, a teacher out. The stage `teacher` picks by `teacher.kind`, and saves and
fingerprints what comes back; kinds.py loads it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillery.data.manifest import PreparedData
from distillery.files import Json
from distillery.models.base import Teacher
from distillery.params.training import EveryTrainingParams
from distillery.training.points import Point


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
    earlier: Sequence[Point] = ()
    """Points that stand in front of the teacher's own in that file."""
    prefix: str = ""
    """What the keys of its own begin with."""
    root: Path = Path()
    """Where files and folders that the settings name start from."""
    checkpoint_seconds: float = EveryTrainingParams().checkpoint_seconds
    """Time between checkpoints inside an epoch, where it is trained."""
    num_processes: int = 1
    """That train it together, where it is trained."""

    def to_travel(self) -> Workplace:
        """Return the same for another process: without the audio that this one has mapped."""
        data = self.data
        own = PreparedData(data.folder, data.frame, data.summary, teacher_texts=data.teacher_texts)
        return replace(self, data=own)


@dataclass(frozen=True)
class ReadyTeacher:
    """A teacher, and what its source leaves."""

    teacher: Teacher
    checkpoint: Path | None = None
    """That its training left, kept while nothing changes; None: nothing was trained."""
    source: Json | None = None
    """Where it comes from, for source.json, as its kind says it; None: from here."""
    leftovers: Sequence[Path] = ()
    """Further checkpoints, of what it is made of."""
    points: Sequence[Point] = ()
    """Of the curves of what it is made from; they stand in front where `checkpoint` is None."""


GetTeacher = Callable[[Any, Workplace], ReadyTeacher]
"""Takes the settings of its own kind."""
