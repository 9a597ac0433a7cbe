"""Born-again students: each generation learns from the one before, the first from the teacher.

Source: Furlanello et al. (2018), "Born-Again Neural Networks", arXiv 1805.04770. There as here the
student is trained anew, from the same first weights, and its predecessor's outputs replace the
teacher's. The last generation is the one that is kept: the validation split that could choose
among them has chosen each one's best epoch already, and generations differ by less than its noise.

A generation's outputs over the training split go through the ordinary cache, in a scratch folder of
its own. What is finished stays there until the student is saved, so that a killed run goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from distillery.architectures.known import STUDENTS, load_recogniser
from distillery.distill.distillation import Distillation, Generation, Trained
from distillery.errors import ModelError
from distillery.files import read_json, whole_folder, write_json
from distillery.models.fingerprint import fingerprint
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.store import TeacherCache
from distillery.training.curves import run_digest
from distillery.training.points import Point, read_points

GENERATIONS_FILE = "generations.json"
ROWS_FILE = "curves.json"


@dataclass(frozen=True)
class GenerationRecord:
    """What generations.json says of one generation; equal runs give equal records."""

    generation: int
    """From 1."""
    num_epochs: int
    """That it was trained for."""
    num_hypotheses: int
    """That it learnt from, after the filter."""
    valid_wer: float
    """Of its best epoch, as a fraction."""
    weights: str
    """Digest of its weights."""


@dataclass(frozen=True)
class Finished:
    """What a killed run has to know of a finished generation: curves.json beside its model."""

    rows: Sequence[Point]
    """Of its learning curves, those of earlier generations in front."""
    record: GenerationRecord


@dataclass(frozen=True)
class Generations:
    """All generations of one student."""

    first: Distillation
    """The run that learns from the teacher."""
    data: Path
    """Folder of the prepared data."""
    params: CacheParams
    """How outputs are cached."""

    @property
    def count(self) -> int:
        """How many are trained; a student that ignores its teacher has one."""
        return self.first.params.generations if self.first.objective.uses_teacher else 1

    @property
    def folder(self) -> Path:
        """Where finished generations wait for the last."""
        seed = self.first.params.training.seed
        return self.first.scratch / "generations" / f"{self.first.name}-{seed}"

    @property
    def steps_are_known(self) -> bool:
        """Whether a control can take its student's steps before that student is trained.

        Not with early stopping after a number of epochs; nor where each generation's filter drops
        other utterances. With `auto` each training finds its own end.
        """
        first = self.first
        training = first.params.training
        if training.known_epochs is not None and training.patience is not None:
            return False
        if self.count == 1 or not first.params.filter.enabled:
            return True
        everything_is_kept = first.data.split("train")["text"].notna().all()
        return bool(everything_is_kept) and first.objective.uses_transcripts

    def train_earlier(self, curves: Path) -> tuple[Distillation, list[GenerationRecord]]:
        """Train all generations but the last, except those that a killed run finished.

        Args:
            curves: JSONL file that receives the learning curves, keys under `generation-N/`.

        Returns:
            The run of the last generation, and what became of the earlier ones.

        Raises:
            ModelError: the student lacks a layer whose hidden states it should learn from.
            DistilleryError: what training and caching raise.
        """
        run, records = self.first, list[GenerationRecord]()
        if self.count == 1:
            return run, records
        params = self._cache_params()
        generation = Generation(1, False, run.cache)
        for number in range(1, self.count):
            run = replace(run, generation=generation)
            place = self.folder / f"{number}-{_digest_of(run)}"
            if not place.exists():
                self._train(run, place, curves)
            saved = read_json(place / ROWS_FILE, Finished)
            records.append(saved.record)
            generation = replace(
                generation,
                number=number + 1,
                is_last=number + 1 == self.count,
                earlier=saved.rows,
            )
            places = Places(self.data, place, self.folder / "teacher_cache")
            fill_cache(places, load_recogniser, params)
            cache = TeacherCache.open_current(places.cache)
            # Nothing that was worked out from the former cache may stay.
            run = replace(run, cache=cache, generation=generation)
        return run, records

    def _train(self, run: Distillation, place: Path, curves: Path) -> None:
        trained = run.train_student(curves)
        finished = Finished(read_points(curves), record_of(run, trained))
        with whole_folder(place) as temporary:
            trained.recogniser.save(temporary)
            fingerprint(trained.recogniser).save(temporary)
            write_json(temporary / ROWS_FILE, asdict(finished))
        trained.checkpoint.unlink(missing_ok=True)

    def _cache_params(self) -> CacheParams:
        """Return settings for what generations say: of hidden layers, those that are learnt from.

        Raises:
            ModelError: the student has no layer of that name.
        """
        first, objective = self.first, self.first.objective
        layers = objective.teacher_layers
        architecture = first.params.students[first.name].architecture
        known = STUDENTS[architecture.type](
            architecture, first.features.num_mels, len(first.vocabulary)
        ).layers
        if unknown := [layer for layer in layers if layer not in known]:
            raise ModelError(
                f"student {first.name!r}: hidden.layers learns from the teacher's {unknown[0]!r}, "
                f"but the student, who teaches the next generation, has {list(known)}; set "
                "generations to 1, or hidden.weight to 0"
            )
        return self.params.keeping(layers)

    def clean_up(self) -> None:
        """Remove what was kept for a killed run to go on with."""
        shutil.rmtree(self.folder, ignore_errors=True)


def record_of(run: Distillation, trained: Trained) -> GenerationRecord:
    """Return what generations.json says of one generation."""
    rows = run.student_rows()
    return GenerationRecord(
        generation=run.generation.number if run.generation else 1,
        num_epochs=trained.num_epochs,
        num_hypotheses=int(rows["fit"].sum()),
        valid_wer=trained.valid_wer,
        weights=trained.recogniser.weights_digest,
    )


def _digest_of(run: Distillation) -> str:
    """Return a digest of all that a generation depends on."""
    rows = run.student_rows()
    source = run.models / "registered/students" / run.name / "source.json"
    keys = {
        "generation": run.generation.number if run.generation else 1,
        "params": run.params.model_dump(exclude={"students", "generations", "control"}),
        "student": run.params.students[run.name].model_dump(),
        "cache": run.cache.manifest_digest,
        "rows": [*rows["audio_key"], *rows["text"]],
        "sounds": run.effects.digests,
        "source": source.read_text("utf-8") if source.exists() else None,
        "pace": run.pace_keys,
    }
    return run_digest(keys)
