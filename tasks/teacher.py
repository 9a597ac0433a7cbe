"""Stage `teacher`: prepared data and settings in, a fingerprinted teacher out."""

from __future__ import annotations

import logging
from pathlib import Path

from distillery import params
from distillery.files import whole_folder, write_json
from distillery.fingerprint import FINGERPRINT_FILE, fingerprint
from distillery.manifest import PreparedData
from distillery.registered import REGISTERED, SOURCE_FILE
from distillery.teachers.base import GetTeacher, Workplace
from distillery.teachers.joined import join_teachers
from distillery.teachers.registry import take_registered
from distillery.teachers.trained import train_teacher
from distillery.teachers.validation import VALIDATION_FILE, validation_wer
from distillery.training import Curves
from tasks.stage import run_stage

SOURCES: dict[str, GetTeacher] = {
    "ensemble": lambda settings, place: join_teachers(settings, place, SOURCES),
    "registry": take_registered,
    "trained": train_teacher,
}
"""By teacher.kind."""

logger = logging.getLogger(__name__)


def teacher(root: Path) -> None:
    """Get the teacher ready: models/teacher and curves/teacher.jsonl under `root`."""
    settings = params.load(root / params.PARAMS_FILE).teacher
    place = Workplace(
        PreparedData.open(root / "data/prepared"),
        root / "scratch",
        root / REGISTERED / "teacher",
        root / "curves/teacher.jsonl",
    )
    ready = SOURCES[settings.kind](settings, place)
    wer = validation_wer(ready.teacher, place.data)
    logger.info("teacher: kind %s, validation WER %.2f %%", settings.kind, 100 * wer)
    if ready.checkpoint is None:  # nothing was trained, so nothing was logged
        Curves(place.curves, ready.points).log(0, {"valid/wer": wer})
    with whole_folder(root / "models/teacher") as folder:
        ready.teacher.save(folder)
        write_json(folder / FINGERPRINT_FILE, fingerprint(ready.teacher))
        write_json(folder / VALIDATION_FILE, {"wer": wer})
        if ready.source is not None:
            write_json(folder / SOURCE_FILE, ready.source)
    for path in (ready.checkpoint, *ready.leftovers):
        if path is not None:
            path.unlink(missing_ok=True)


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(teacher, Path.cwd())


if __name__ == "__main__":
    main()
