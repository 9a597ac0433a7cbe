"""Stage `distill`: one student, and its control, trained from the teacher-output cache."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from distillery.augmentations.augmenter import SOUNDS_FILE
from distillery.data.judged import judged
from distillery.data.manifest import DESCRIPTIONS, PreparedData
from distillery.data.workspace import CONTROLS, CURVES, STUDENTS
from distillery.distill.distillation import Distillation, Trained
from distillery.distill.fall_back import FELL_BACK_FILE, FellBack, better_control
from distillery.distill.filtering import FILTER_FILE
from distillery.distill.generations import (
    GENERATIONS_FILE,
    GenerationRecord,
    Generations,
    record_of,
)
from distillery.distill.needs import check_transcripts
from distillery.distill.start import INIT_FILE
from distillery.files import Json, whole_folder, write_json
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import DistillStageParams
from distillery.teacher_cache.filling.expected import Places, open_expected
from distillery.training.validation import check_not_poor
from tasks.stage import run_stage

logger = logging.getLogger(__name__)
ROLES = ("control", "student")
NO_CONTROL = "distill.control is false: no control was trained.\n"


def distill(root: Path, student: str, seed: int) -> None:
    """Train one student, and its control, from one seed.

    Args:
        root: the workspace; models/students, models/controls and curves receive the results.
        student: a name under distill.students.
        seed: one of distill.seeds.
    """
    job = _Job.of(root, student, seed)
    job.generations.first.check_student_texts()  # before the control's training, which is long
    control = None
    if job.has_control and job.generations.steps_are_known:
        control = job.train_control()  # tells a poor teacher early
    run, earlier = job.generations.train_earlier(job.curves(STUDENTS))
    for line in run.filtered.lines() if run.filtered else ():
        logger.info("%s", line)
    trained = run.train_student(job.curves(STUDENTS))
    if job.has_control and control is None:
        control = job.train_control(trained.num_epochs)
    if not job.has_control:
        why = "is false" if not job.params.distill.control else "finds no transcripts"
        logger.info("control %s: whether the teacher is worse than a control is unknown", why)
        job.curves(CONTROLS).parent.mkdir(parents=True, exist_ok=True)
        job.curves(CONTROLS).write_text("")
    kept, fell_back = job.keep(trained, control)
    notes = {
        **_notes_of(run, trained, earlier),
        **_first_weights(kept),
        FELL_BACK_FILE: fell_back and asdict(fell_back),
    }
    _save(kept, root / STUDENTS / job.item, notes)
    _save(control, root / CONTROLS / job.item, _first_weights(control))
    job.generations.clean_up()


def train_ahead(root: Path, student: str, seed: int, role: str) -> None:
    """Train one of the two models of a stage, and leave its last checkpoint for that stage.

    Student and control train side by side so. Where the control's number of steps depends on the
    student, the process of the student trains both, and that of the control has nothing to do.

    Args:
        root: the workspace; scratch/ receives checkpoints and curves/ the curves.
        student: a name under distill.students.
        seed: one of distill.seeds.
        role: `student` or `control`.
    """
    job = _Job.of(root, student, seed)
    is_known = job.generations.steps_are_known
    if role == "control":
        if job.has_control and is_known:
            job.train_control()
        return
    run, _ = job.generations.train_earlier(job.curves(STUDENTS))
    trained = run.train_student(job.curves(STUDENTS))
    if job.has_control and not is_known:
        job.train_control(trained.num_epochs)


@dataclass(frozen=True)
class _Job:
    """One student from one seed, and its control."""

    root: Path
    params: DistillStageParams
    generations: Generations
    item: str
    """Such as `conv/seed-0`: where its models and curves lie."""

    @classmethod
    def of(cls, root: Path, student: str, seed: int) -> Self:
        """Read settings and teacher cache."""
        params = DistillStageParams.load(root / PARAMS_FILE)
        run = _run_of(root, params, student, seed)
        generations = Generations(run, Places.in_workspace(root).data, params.cache)
        return cls(root, params, generations, f"{student}/seed-{seed}")

    @property
    def has_control(self) -> bool:
        rows = self.generations.first.data.split("train")
        return self.params.distill.trains_control(int(rows["text"].notna().sum()))

    def curves(self, folder: str) -> Path:
        """Return the file of curves of the student, or of the control."""
        return self.root / CURVES / f"{Path(folder).name}/{self.item}.jsonl"

    def train_control(self, num_epochs: int | None = None) -> Trained:
        """Train the control, for all epochs by default, and compare it with the teacher.

        Raises:
            ModelError: the teacher is worse.
        """
        run = self.generations.first
        trained = run.train_control(self.curves(CONTROLS), num_epochs)
        if run.objective.uses_teacher:
            line = check_not_poor(
                Places.in_workspace(self.root).teacher,
                run.name,
                trained.valid_wer,
                allow_poor=self.params.teacher.allow_poor,
                unit=run.data.unit_of("valid"),
            )
            logger.info("%s", line)
        return trained

    def keep(self, student: Trained, control: Trained | None) -> tuple[Trained, FellBack | None]:
        """Return what is saved as the student: itself, or its control where that is better."""
        if control is None or not self.params.distill.fall_back:
            return student, None
        found = better_control(student.valid_wer, control.valid_wer)
        if found is None:
            return student, None
        unit = self.generations.first.data.unit_of("valid")
        logger.warning(
            "student %s: its control is better on validation (%s %.1f %% against %.1f %%), so the "
            "student takes the control's weights; distill.fall_back: false keeps its own",
            self.item,
            unit.rate,
            100 * found.control_valid_wer,
            100 * found.student_valid_wer,
        )
        return replace(student, recogniser=control.recogniser, init=control.init), found


def _run_of(root: Path, everything: DistillStageParams, student: str, seed: int) -> Distillation:
    """Return a student's training from the cache, which must be the present teacher's.

    Raises:
        CacheMismatch: it is another's.
    """
    places = Places.in_workspace(root)
    cache = open_expected(places, everything.cache, everything.distill.teacher_layers)
    data = judged(PreparedData.open(places.data, without=DESCRIPTIONS), places.teacher)
    check_transcripts(data, None, everything.distill, everything.language_model, [student])
    return Distillation(
        data,
        cache,
        student,
        everything.distill.for_seed(seed),
        root / "scratch",
        root / "models",
        speed_factors=everything.cache.speed_factors,
        root=root,
        checkpoint_seconds=everything.training.checkpoint_seconds,
    )


def _notes_of(run: Distillation, trained: Trained, earlier: Sequence[GenerationRecord]) -> Json:
    """Return what JSON files beside a student say of its training, by name; None: no such file."""
    records = [*earlier, record_of(run, trained)] if earlier else []
    return {
        SOUNDS_FILE: run.effects.digests or None,
        FILTER_FILE: None if run.filtered is None else asdict(run.filtered.report()),
        GENERATIONS_FILE: [asdict(item) for item in records] or None,
    }


def _first_weights(trained: Trained | None) -> Json:
    """Return the JSON file that says where a model's first weights came from."""
    begun = trained and trained.init
    return {INIT_FILE: begun and asdict(begun)}


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
    parser.add_argument(
        "--ahead", choices=ROLES, help="train this one only, and leave it for the stage to save"
    )
    options = parser.parse_args()
    item = (Path.cwd(), options.student, options.seed)
    if options.ahead:
        # What the stage reads is its to guard; a checkpoint of other inputs has another name.
        run_stage(train_ahead, *item, options.ahead, guard=False)
    run_stage(distill, *item)


if __name__ == "__main__":
    main()
