"""Whether a part of a study has to be made again: a digest of all that it was made from.

For stages DVC knows that. What a study's parts are made from is known only while it runs (which
utterances a share draws, which files a candidate's settings name, how long a pilot's student was
trained), so each part has a note beside it with the digest of that
(docs/decisions/0019-studies.md has the figures).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from distillery.augmentations.augmenter import Effects
from distillery.data.manifest import PreparedData
from distillery.files import digest_of_file, write_json
from distillery.params.whole import Params
from distillery.tracking.fetched import REGISTERED, read_source
from tasks.stage import snapshot


class Note(BaseModel):
    """What is written down of a part; several kinds of parts have more to say."""

    model_config = ConfigDict(frozen=True)

    digest: str
    """Of all that the part was made from."""


AnyNote = TypeVar("AnyNote", bound=Note)


def read_note(kind: type[AnyNote], path: Path) -> AnyNote | None:
    """Return the note in a file, None where there is none that can be read."""
    try:
        return kind.model_validate(json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def write_note(path: Path, note: Note) -> None:
    """Write a note, and make the folder where it is to lie."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, note.model_dump())


def kept(path: Path, digest: str, make: Callable[[], AnyNote], kind: type[AnyNote]) -> AnyNote:
    """Return the note in a file if its part was made from the same, else make it anew.

    Args:
        path: the file.
        digest: of all that the part would be made from now.
        make: makes it; the note it returns is written.
        kind: of the note.
    """
    note = read_note(kind, path)
    if note is None or note.digest != digest:
        note = make()
        write_note(path, note)
    return note


@dataclass(frozen=True)
class Study:
    """A workspace as a study reads it."""

    root: Path
    settings: Params
    data: PreparedData

    @cached_property
    def sounds(self) -> Mapping[str, str]:
        """Digests of the recordings that augmentation draws from."""
        wanted, rate = self.settings.distill.augmentation, self.data.sample_rate_hz
        return Effects.build(wanted, self.root, rate).digests

    def registered_student(self, student: str) -> str:
        """Return which registered version a student starts from, in words."""
        return str(read_source(self.root / REGISTERED / "students" / student))


def rows_of(data: PreparedData, *splits: str) -> list[list[object]]:
    """Return what a digest of some splits is made of: their audio and transcripts."""
    parts = [data.split(split) for split in splits]
    texts: list[list[object]] = [[*part["audio_key"], *part["text"]] for part in parts]
    unit: list[object] = [*data.unit_if_unusual]
    return [*texts, unit] if unit else texts


def inputs_of(root: Path, stage: str, *items: str) -> dict[str, object]:
    """Return code and settings of a stage as dvc.yaml lists them, by name.

    Data stand in folders, by time, which `dvc checkout` changes: they are left out, for a study
    follows them by content. Code counts by content wherever it stands.

    Args:
        root: the workspace.
        stage: its name in dvc.yaml.
        items: one item of each axis of a `matrix` stage.
    """
    inputs = {}
    for name, state in snapshot(root, stage, *items).items():
        if not isinstance(state, tuple):
            inputs[name] = state
    return inputs


def files_named(root: Path, settings: object) -> Iterator[tuple[str, object]]:
    """Yield the state of every file and folder that settings name."""
    if isinstance(settings, Mapping):
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            yield from files_named(root, value)
    if not isinstance(settings, str) or not settings or not (root / settings).exists():
        return
    path = root / settings
    if path.is_file():
        yield settings, digest_of_file(path)
        return
    for file in sorted(path.rglob("*")):
        if file.is_file():
            status = file.stat()
            yield str(file.relative_to(path)), (status.st_size, status.st_mtime_ns)
