"""Stage `teacher`: prepared data and settings in, a fingerprinted teacher out."""

from __future__ import annotations

from pathlib import Path

from distillery import params
from distillery.files import whole_folder, write_json
from distillery.fingerprint import FINGERPRINT_FILE, fingerprint
from distillery.manifest import PreparedData
from distillery.teachers.trained import train_teacher
from tasks.stage import run_stage

SOURCES = {"trained": train_teacher}  # by teacher.kind


def teacher(root: Path) -> None:
    """Get the teacher ready: models/teacher and curves/teacher.jsonl under `root`."""
    settings = params.load(root / params.PARAMS_FILE).teacher
    data = PreparedData.open(root / "data/prepared")
    curves = root / "curves/teacher.jsonl"
    get_ready = SOURCES[settings.kind]
    trained, _, checkpoint = get_ready(data, settings, root / "scratch", curves)
    with whole_folder(root / "models/teacher") as folder:
        trained.save(folder)
        write_json(folder / FINGERPRINT_FILE, fingerprint(trained))
    checkpoint.unlink(missing_ok=True)


def main() -> None:
    """Run the stage in the current folder."""
    run_stage(teacher, Path.cwd())


if __name__ == "__main__":
    main()
