"""The pilot of a candidate: a short distillation from it, and its control, for each seed.

Notes lie in the candidate's folder, those of controls in a folder of their own: a control knows of
its teacher the tokens and the number of steps alone, so teachers of equal tokens share one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from distillery.distill.distillation import Distillation, Trained
from distillery.evaluate.latency import listen
from distillery.evaluate.listening import batches
from distillery.studies.fit import Fit, pilot_settings
from distillery.studies.teacher_choice import PilotResult
from distillery.teacher_cache.store import TeacherCache
from distillery.training.curves import run_digest
from tasks.studies.made_from import Note, kept
from tasks.studies.teacher_study import TeacherStudy


class HeardNote(Note):
    """What is written down of a pilot's student or control."""

    texts: tuple[str, ...]
    """What it heard, one text per validation utterance."""
    num_epochs: int
    """Those of its training."""


@dataclass(frozen=True)
class Pilot:
    """A short distillation from one candidate, and its control."""

    study: TeacherStudy
    folder: Path
    """The candidate's own, where notes go."""
    teacher: Path
    """Folder of the teacher."""
    cache: TeacherCache
    """What the teacher said of the pilot's share."""
    fit: Fit
    """Of the pilot's student and the teacher."""
    seed: int

    @cached_property
    def run(self) -> Distillation:
        """What student and control are trained by."""
        study, student = self.study, self.fit.student
        settings = pilot_settings(study.settings, self.fit)
        has_its_own = settings.students[student].reads_teacher
        return Distillation(
            study.share,
            self.cache,
            student,
            settings.for_seed(self.seed),
            study.root / "scratch",
            self.teacher.parent if has_its_own else study.root / "models",
            speed_factors=study.settings.cache.speed_factors,
            root=study.root,
            checkpoint_seconds=study.settings.training.checkpoint_seconds,
        )

    def result(self) -> PilotResult:
        """Return what student and control heard, trained where they have not been."""
        student = self._student()
        control = self._control(student.num_epochs)
        return PilotResult(self.seed, student.texts, control.texts)

    def _common(self) -> tuple[object, ...]:
        """Return what student and control are both made from."""
        run, study = self.run, self.study
        return (
            study.code,
            study.rows_digest(study.share, "train", "valid"),
            study.sounds,
            study.registered_student(run.name),
            study.settings.evaluate.stream_chunk_seconds,
        )

    def _student(self) -> HeardNote:
        run = self.run
        digest = run_digest(*self._common(), run.params.model_dump(), self.cache.manifest_digest)
        curves = self.folder / f"pilot-seed-{self.seed}.jsonl"
        path = curves.with_suffix(".json")

        def train() -> HeardNote:
            return self._tried(run.train_student(curves), curves, digest)

        return kept(path, digest, train, HeardNote)

    def _control(self, num_epochs: int) -> HeardNote:
        """Return what the control heard; it knows of its teacher the tokens and the steps alone."""
        run = self.run
        student = run.params.students[run.name]
        digest = run_digest(
            *self._common(),
            run.params.model_dump(exclude={"students", "objective", "filter"}),
            [student.architecture.model_dump(), run.features.model_dump(), student.registered_init],
            run.vocabulary.tokens,
            list(run.student_rows()["audio_key"]),
            num_epochs,
        )
        curves = self.study.folder / "controls" / f"{digest}.jsonl"
        path = curves.with_suffix(".json")

        def train() -> HeardNote:
            return self._tried(run.train_control(curves, num_epochs), curves, digest)

        return kept(path, digest, train, HeardNote)

    def _tried(self, trained: Trained, curves: Path, digest: str) -> HeardNote:
        """Return what a model hears on the validation split, and clean up behind its training."""
        study = self.study
        rows, chunk = study.valid_rows, study.settings.evaluate.stream_chunk_seconds
        listed, texts = list(rows.itertuples()), [""] * len(rows)
        for batch in batches(rows["duration_seconds"].to_numpy()):
            waveforms = [study.data.waveform(listed[row]) for row in batch]
            heard = listen(trained.recogniser, waveforms, chunk)
            for row, item in zip(batch, heard, strict=True):
                texts[row] = item.text
        trained.checkpoint.unlink(missing_ok=True)
        curves.unlink(missing_ok=True)
        return HeardNote(digest=digest, texts=tuple(texts), num_epochs=trained.num_epochs)
