"""Stage `distill`: one student, and its control, trained from the teacher-output cache."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from distillery.augmentations.augmenter import SOUNDS_FILE
from distillery.data.manifest import PreparedData
from distillery.data.workspace import CONTROLS, CURVES, STUDENTS
from distillery.distill.distillation import Distillation, Trained
from distillery.distill.filtering import FILTER_FILE
from distillery.distill.generations import (
    GENERATIONS_FILE,
    GenerationRecord,
    Generations,
    record_of,
)
from distillery.distill.start import INIT_FILE
from distillery.files import Json, whole_folder, write_json
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import DistillStageParams
from distillery.teacher_cache.filling.expected import Places, expected_namespace
from distillery.teacher_cache.store import TeacherCache
from distillery.training.validation import check_not_poor
from tasks.stage import run_stage

logger = logging.getLogger(__name__)
NO_CONTROL = "distill.control is false: no control was trained.\n"


def distill(root: Path, student: str, seed: int) -> None:
    """Train one student, and its control, from one seed.

    Args:
        root: the workspace; models/students, models/controls and curves receive the results.
        student: a name under distill.students.
        seed: one of distill.seeds.
    """
    everything = DistillStageParams.load(root / PARAMS_FILE)
    settings = everything.distill
    places = Places.in_workspace(root)
    run = _run_of(root, everything, student, seed)
    item = f"{student}/seed-{seed}"
    curves = root / f"{CURVES}/students/{item}.jsonl"
    control_curves = root / f"{CURVES}/controls/{item}.jsonl"
    generations = Generations(run, places.data, everything.cache)
    control = None

    def train_control(run: Distillation, num_epochs: int) -> Trained:
        trained = run.train_control(control_curves, num_epochs)
        if run.objective.uses_teacher:
            allowed = everything.teacher.allow_poor
            wer = trained.valid_wer
            found = check_not_poor(
                places.teacher, student, wer, allow_poor=allowed, unit=run.data.unit
            )
            logger.info("%s", found)
        return trained

    if settings.control and generations.steps_are_known:
        control = train_control(run, settings.training.num_epochs)  # tells a poor teacher early
    run, earlier = generations.train_earlier(curves)
    for line in run.filtered.lines() if run.filtered else ():
        logger.info("%s", line)
    trained = run.train_student(curves)
    if settings.control and control is None:
        control = train_control(run, trained.num_epochs)
    if not settings.control:
        logger.info("control is false: whether the teacher is worse than a control is unknown")
        control_curves.parent.mkdir(parents=True, exist_ok=True)
        control_curves.write_text("")
    _save(trained, root / STUDENTS / item, _notes_of(run, trained, earlier))
    begun = control and control.init
    _save(control, root / CONTROLS / item, {INIT_FILE: begun and asdict(begun)})
    generations.clean_up()


def _run_of(root: Path, everything: DistillStageParams, student: str, seed: int) -> Distillation:
    """Return a student's training from the cache, which must be the present teacher's.

    Raises:
        CacheMismatch: it is another's.
    """
    places = Places.in_workspace(root)
    cache = TeacherCache.open_current(places.cache)
    cache.namespace.check(expected_namespace(places, everything.cache, cache.namespace.tokens))
    return Distillation(
        PreparedData.open(places.data),
        cache,
        student,
        everything.distill.for_seed(seed),
        root / "scratch",
        root / "models",
        speed_factors=everything.cache.speed_factors,
        root=root,
    )


def _notes_of(
    run: Distillation, trained: Trained, earlier: Sequence[GenerationRecord]
) -> dict[str, object]:
    """Return the JSON files that lie beside a student, by name; None: this one has no such file."""
    records = [*earlier, record_of(run, trained)] if earlier else []
    return {
        INIT_FILE: trained.init and asdict(trained.init),
        SOUNDS_FILE: run.effects.digests or None,
        FILTER_FILE: None if run.filtered is None else asdict(run.filtered.report()),
        GENERATIONS_FILE: [asdict(item) for item in records] or None,
    }


def _save(trained: Trained | None, folder: Path, notes: Json) -> None:
    with whole_folder(folder) as temporary:
        if trained is None:
            (temporary / "none.txt").write_text(NO_CONTROL)
        else:
            trained.recogniser.save(temporary)
        for name, content in notes.items():
            if content is not None:
                write_json(temporary / name, content)
    if trained is not None:
        trained.checkpoint.unlink(missing_ok=True)


def main() -> None:
    """Run the stage for one student and seed in the current folder."""
    parser = argparse.ArgumentParser(description="Train one student and its control.")
    parser.add_argument("student", help="a name under distill.students in params.yaml")
    parser.add_argument("seed", type=int, help="one of distill.seeds")
    options = parser.parse_args()
    run_stage(distill, Path.cwd(), options.student, options.seed)


if __name__ == "__main__":
    main()
