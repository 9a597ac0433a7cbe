"""Stage `teacher`: prepared data and settings in, a fingerprinted teacher out."""

from __future__ import annotations

from pathlib import Path

from distillery import params
from distillery.files import whole_folder, write_json
from distillery.fingerprint import FINGERPRINT_FILE, fingerprint
from distillery.manifest import PreparedData
from distillery.registered import REGISTERED, SOURCE_FILE
from distillery.teachers.base import GetTeacher, Workplace
from distillery.teachers.registry import take_registered
from distillery.teachers.trained import train_teacher
from tasks.stage import run_stage

SOURCES: dict[str, GetTeacher] = {
    "registry": take_registered,
    "trained": train_teacher,
}
"""By teacher.kind."""


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
    with whole_folder(root / "models/teacher") as folder:
        ready.recogniser.save(folder)
        write_json(folder / FINGERPRINT_FILE, fingerprint(ready.recogniser))
        if ready.source is not None:
            write_json(folder / SOURCE_FILE, ready.source)
    if ready.checkpoint is not None:
        ready.checkpoint.unlink(missing_ok=True)


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(teacher, Path.cwd())


if __name__ == "__main__":
    main()
