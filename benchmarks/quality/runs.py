"""The trainings of a study: each made once, and kept with what it gave."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common import ROOT, commit
from benchmarks.quality.settings import Study, Training
from distillery.architectures.known import STUDENTS
from distillery.data.judged import judged
from distillery.data.manifest import PreparedData
from distillery.data.scoring import count_text_errors
from distillery.decoder.making import learn
from distillery.distill.distillation import Distillation
from distillery.distill.kept_texts import language_model_texts
from distillery.errors import CorpusError
from distillery.evaluate.curves import course_of, read_curves
from distillery.evaluate.listening import labelled_test_rows, predict
from distillery.evaluate.models import TrainedModel
from distillery.evaluate.searched import search
from distillery.files import write_json
from distillery.models.base import Teacher
from distillery.models.recogniser import Recogniser
from distillery.params.decoder import DecoderParams
from distillery.params.distill import DistillParams
from distillery.params.objective import ObjectiveParams
from distillery.params.whole import Params
from distillery.prepare.splits import hash_fraction
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from distillery.training.convergence import (
    LEAST_IMPROVEMENT,
    LEAST_PATIENCE,
    PATIENCE_SHARE,
    SMOOTHED_EPOCHS,
)
from distillery.training.curves import run_digest

CHUNK_SECONDS = 0.32
RULE = [SMOOTHED_EPOCHS, LEAST_IMPROVEMENT, LEAST_PATIENCE, PATIENCE_SHARE]
"""By which `auto` ends."""
BEFORE_DISTILL = ("prepare", "teacher", "cache")
"""Sections of the settings that decide what is learnt from."""
Run = dict[str, Any]
"""What a training gave: errors by test utterance, validation, epochs, CPU seconds, ..."""


def draw_part(data: PreparedData, count: int, seed: int) -> PreparedData:
    """Return the data with so many of their training utterances; the other splits stay whole.

    Drawn by hash of the audio and the seed: a smaller part of a seed lies inside its larger ones,
    and data that come later move none that are there, but for those that they take the place of.

    Args:
        data: prepared data.
        count: of training utterances.
        seed: other seeds draw others.

    Raises:
        CorpusError: there are no more than that.
    """
    train = data.split("train")
    if len(train) <= count:
        raise CorpusError(
            f"parts: {count} utterances of a training split that has {len(train)}, expected fewer; "
            "leave this part out, all utterances are a row by themselves"
        )
    salt = f"part/{seed}"
    drawn = sorted(
        zip(train["audio_key"], train["utterance_id"], strict=True),
        key=lambda pair: (hash_fraction(salt, pair[0]), pair[1]),
    )
    ids = {utterance for _, utterance in drawn[:count]}
    kept = (data.frame["split"] != "train") | data.frame["utterance_id"].isin(ids)
    return replace(data, frame=data.frame[kept])


@dataclass(frozen=True)
class Runs:
    """Trains what a study asks for, and keeps what each training gave."""

    study: Study
    present: Params
    _paths: dict[Training, Path] = field(default_factory=dict, repr=False)

    @cached_property
    def data(self) -> PreparedData:
        """The prepared corpus."""
        data = PreparedData.open(self.study.workspace / "data/prepared")
        return judged(data, self.study.workspace / "models/teacher")

    @cached_property
    def cache(self) -> TeacherCache:
        """What the teacher said."""
        return TeacherCache.open_current(self.study.workspace / "data/teacher_cache")

    @cached_property
    def test_rows(self) -> pd.DataFrame:
        """What all models are judged on."""
        return labelled_test_rows(self.data)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """What a row trains: no control where there is nothing that it could learn from."""
        has_text = bool(self.data.split("train")["text"].notna().any())
        return ("control", "student") if has_text else ("student",)

    def data_of(self, training: Training) -> PreparedData:
        """Return the data that a training has.

        Raises:
            CorpusError: they have no such part.
        """
        if training.part is None:
            return self.data
        return draw_part(self.data, training.part, training.seed)

    def teacher(self) -> Run:
        """Return the teacher's errors."""
        path = self.study.workspace / "runs/teacher.json"
        if not path.exists():
            model = load_teacher(self.study.workspace / "models/teacher")
            write_json(path, self._judge(model))
        return _read(path)

    def path(self, training: Training) -> Path:
        """Return where it is kept what a training gave; rows of equal controls share one."""
        if training not in self._paths:
            self._paths[training] = self._path(training)
        return self._paths[training]

    def _path(self, training: Training) -> Path:
        speeds = self.study.speed_factors_of(training.row)
        beside = [list(speeds)] if speeds else []
        # All settings, not only those that are no defaults, and the rule of `auto`: what is trained
        # under other defaults, or ends by another rule, is another training.
        content = self._settings(training).model_dump()
        origin = [str(self.cache.namespace.teacher["weights"]), *self._heard(training)]
        digest = run_digest(training.role, content, RULE, origin, *beside)
        return self.study.workspace / f"runs/{training.role}-{digest}.json"

    def recipe_of(self, training: Training) -> str:
        """Return a digest of all that a training's figures come of, by settings and data.

        A teacher counts by its settings: one that was trained elsewhere with the same has other
        weights in their last digits, and is the same in what a study asks.
        """
        decoder = self._decoder(training)
        return run_digest(
            training.role,
            self._settings(training).model_dump(),
            RULE,
            self._heard(training),
            [self.study.settings.get(section) for section in BEFORE_DISTILL],
            self.study.speed_factors_of(training.row),
            None if decoder is None else decoder.model_dump(mode="json"),
        )

    def finished(self, training: Training) -> Run | None:
        """Return what a training gave; None: it is to be made yet."""
        path, served = self.path(training), self._served_path(training)
        if not path.exists() or (served is not None and not served.exists()):
            return None
        course = course_of(read_curves(path.with_suffix(".jsonl")))
        return {
            **_read(path),
            **({} if served is None else _read(served)),
            "cpu_seconds": None if course is None else course.cpu_seconds,
        }

    def _served_path(self, training: Training) -> Path | None:
        """Return where it is kept what is found as served: the training is one for all decoders."""
        decoder = self._decoder(training)
        if decoder is None:
            return None
        digest = run_digest(decoder.model_dump(mode="json"))
        return self.path(training).with_suffix(f".served-{digest}.json")

    def _decoder(self, training: Training) -> DecoderParams | None:
        """Return what a training is judged with as served.

        None: best paths alone count, as of all parts and budgets.
        """
        whole = training.part is None and training.epochs is None
        return self.study.decoder_of(training.row) if whole else None

    def result(self, training: Training) -> Run:
        """Return what a training gave, made now where it was not before.

        What another process is making is waited for.
        """
        with _alone(self.path(training).with_suffix(".lock")):
            if not self.path(training).exists():
                self._train(training)
            served = self._served_path(training)
            if served is not None and not served.exists():
                write_json(served, self._judge_as_served(training))
        found = self.finished(training)
        assert found is not None
        return found

    def _settings(self, training: Training) -> DistillParams:
        """Return what a training trains with; a control has no objective beside its transcripts."""
        settings = self.study.settings_of(training.row, training.seed, training.epochs)
        if training.role == "control":
            return settings.model_copy(update={"objective": ObjectiveParams()})
        return settings

    def _train(self, training: Training) -> None:
        path, settings = self.path(training), self._settings(training)
        data = self.data_of(training)
        run = Distillation(
            data,
            self.cache,
            self.study.student,
            settings,
            self.study.workspace / "scratch",
            self.study.workspace / "models",
            speed_factors=self.study.speed_factors_of(training.row),
        )
        train = run.train_control if training.role == "control" else run.train_student
        trained = train(path.with_suffix(".jsonl"))
        path.with_suffix("").mkdir(exist_ok=True)
        trained.recogniser.save(path.with_suffix(""))
        rows = data.split("train")
        content = {
            **self._judge(trained.recogniser),
            "role": training.role,
            "seed": training.seed,
            "valid_wer": trained.valid_wer,
            "num_epochs": trained.num_epochs,
            "converged": trained.converged,
            "audio_seconds": float(rows["duration_seconds"].sum()),
            "transcripts": int(rows["text"].notna().sum()),
            "commit": commit(),
        }
        write_json(path, content)
        trained.checkpoint.unlink(missing_ok=True)

    def _heard(self, training: Training) -> list[str]:
        """Return the audio and the transcripts that a training has."""
        rows = self.data_of(training).split("train")
        return [
            *(str(key) for key in sorted(rows["audio_key"])),
            *(str(text) for text in sorted(rows["text"].dropna())),
        ]

    def _judge(self, recogniser: Teacher) -> Run:
        run = TrainedModel("model", None)
        predictions, _ = predict(self.data, self.test_rows, {run: recogniser}, CHUNK_SECONDS)
        return {
            "parameters": recogniser.num_parameters,
            "words": predictions["words"].tolist(),
            "word_errors": predictions["word_errors"].tolist(),
        }

    def _judge_as_served(self, training: Training) -> Run:
        """Return the errors of what the shipped decoder finds, its weights chosen on validation."""
        params = self._decoder(training)
        assert params is not None
        data, settings = self.data_of(training), self._settings(training)
        cached = self.study.workspace / "data/teacher_cache"
        learns_from = params.language_model.learns_from
        texts = language_model_texts(data, cached, settings.filter, learns_from)
        learnt = learn(ROOT, data, texts, params)
        recogniser = Recogniser.load(self.path(training).with_suffix(""), STUDENTS)
        rows, unit, model = self.test_rows, self.data.unit_of("test"), TrainedModel("model", None)
        found = search(self.data, rows, {model: recogniser}, None, learnt).found[model]
        pairs = zip(rows["text"], found.texts, strict=True)
        return {
            "word_errors_lm": [count_text_errors(*pair, unit).errors for pair in pairs],
            "valid_wer_lm": found.tuned.valid_wer,
            "decoder_bytes": found.tuned.bytes,
        }


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until nobody else is in here with the same file."""
    with open(path, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Run:
    content: Run = json.loads(path.read_text("utf-8"))
    return content
