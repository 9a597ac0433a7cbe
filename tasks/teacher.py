"""Stage `teacher`: prepared data and settings in, a fingerprinted teacher out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distillery.data.judged import VALIDATION_FILE
from distillery.data.manifest import PreparedData
from distillery.data.workspace import CURVES, PREPARED, TEACHER
from distillery.files import Json, read_json, whole_folder, write_json
from distillery.models.fingerprint import fingerprint
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import TeacherStageParams
from distillery.params.teacher import TeacherParams
from distillery.teachers.base import Workplace
from distillery.teachers.kinds import take_teacher
from distillery.tracking.fetched import REGISTERED, SOURCE_FILE
from distillery.training.curves import Curves, run_digest
from distillery.training.validation import validate_teacher
from tasks.stage import PIPELINE_FILE, run_stage, snapshot

KEPT_FILE = "scratch/kept_teacher.json"
SETTINGS_KEY = "params.yaml: teacher"
"""What `snapshot` calls the settings of the stage."""

logger = logging.getLogger(__name__)


def teacher(root: Path) -> None:
    """Get the teacher ready: models/teacher and curves/teacher.jsonl under `root`."""
    settings = TeacherStageParams.load(root / PARAMS_FILE)
    place = Workplace(
        PreparedData.open(root / PREPARED),
        root / "scratch",
        root / REGISTERED / "teacher",
        root / f"{CURVES}/teacher.jsonl",
        root=root,
        checkpoint_seconds=settings.training.checkpoint_seconds,
        num_processes=settings.training.num_processes,
    )
    kept = KeptCheckpoint(root)
    kept.remove_outdated()
    kept.keep(make_teacher(settings.teacher, place, root / TEACHER))


def make_teacher(
    settings: TeacherParams,
    place: Workplace,
    folder: Path,
    notes: Json | None = None,
) -> list[Path]:
    """Make a teacher of any kind, and save it with its fingerprint and its validation WER.

    Args:
        settings: of its kind.
        place: what it may be made from.
        folder: receives the teacher; what is there is replaced.
        notes: JSON files to write beside it, by name.

    Returns:
        The checkpoints that training left, where something was trained.
    """
    ready = take_teacher(settings, place)
    found = validate_teacher(ready.teacher, place.data)
    if found.wer is None:
        logger.info(
            "teacher: kind %s; split valid says nothing of what is spoken, so its own texts stand "
            "for that, and how many of them are wrong is unknown",
            settings.kind,
        )
    else:
        rate = place.data.unit_of("valid").rate
        logger.info("teacher: kind %s, validation %s %.2f %%", settings.kind, rate, 100 * found.wer)
    if ready.checkpoint is None:  # nothing was trained, so nothing was logged
        values = {} if found.wer is None else {"valid/wer": found.wer}
        Curves(place.curves, ready.points).log(0, values)
    files: dict[str, object] = {VALIDATION_FILE: found.entries}
    if ready.source is not None:
        files[SOURCE_FILE] = ready.source
    with whole_folder(folder) as temporary:
        ready.teacher.save(temporary)
        fingerprint(ready.teacher).save(temporary)
        for name, content in {**files, **(notes or {})}.items():
            write_json(temporary / name, content)
    return [*([] if ready.checkpoint is None else [ready.checkpoint]), *ready.leftovers]


@dataclass(frozen=True)
class KeptNote:
    """Which checkpoints are kept, and what they were made from."""

    state: str
    """Digest of the code, settings and data of the stage."""
    checkpoints: Sequence[str]
    """Their paths in the workspace."""


@dataclass(frozen=True)
class KeptCheckpoint:
    """The last checkpoints of the teacher's training, kept while all they were made from stays.

    `teacher.allow_poor` is part of the settings that DVC follows, so switching it on after hours of
    training runs the stage again. From the checkpoint that takes seconds.
    """

    root: Path

    @property
    def _note(self) -> Path:
        return self.root / KEPT_FILE

    def _state(self) -> str:
        state = dict(snapshot(self.root, "teacher"))
        settings = state.get(SETTINGS_KEY)
        if isinstance(settings, dict):
            settings = {name: value for name, value in settings.items() if name != "allow_poor"}
        return run_digest({**state, SETTINGS_KEY: settings})

    @property
    def checkpoints(self) -> list[Path]:
        """Those that are kept."""
        note = self._read()
        return [] if note is None else [self.root / name for name in note.checkpoints]

    def _read(self) -> KeptNote | None:
        try:
            return read_json(self._note, KeptNote)
        except (OSError, ValueError):
            return None

    def remove_outdated(self) -> None:
        """Remove the kept checkpoints unless they are of the present code, settings and data."""
        note = self._read()
        if self._note.exists() and (note is None or note.state != self._state()):
            for checkpoint in self.checkpoints:
                checkpoint.unlink(missing_ok=True)
            self._note.unlink()

    def keep(self, checkpoints: Sequence[Path]) -> None:
        """Remember that these have ended, and what they were made from."""
        if not (self.root / PIPELINE_FILE).exists():  # nothing says what that is
            for checkpoint in checkpoints:
                checkpoint.unlink()
        elif checkpoints:
            names = [str(checkpoint.relative_to(self.root)) for checkpoint in checkpoints]
            write_json(self._note, asdict(KeptNote(self._state(), names)))


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(teacher, Path.cwd())


if __name__ == "__main__":
    main()
