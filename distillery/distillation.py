"""Students trained towards the cached outputs of a teacher, and their controls.

The teacher itself is never loaded here: all that training knows of it comes from the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from distillery.batches import TrainingSet
from distillery.datasets import labelled, validation_set
from distillery.errors import CacheMismatch
from distillery.features import pack_features
from distillery.manifest import PreparedData
from distillery.objectives import DistillationObjective, TranscriptObjective
from distillery.params import DistillParams, ObjectiveParams
from distillery.recogniser import Recogniser
from distillery.students import STUDENTS
from distillery.teacher_cache.store import TeacherCache
from distillery.text import Vocabulary
from distillery.training import Curves, Trainer, run_digest

RATIO_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Trained:
    """A trained student or control, and the checkpoint to remove once it is saved."""

    recogniser: Recogniser
    num_epochs: int
    checkpoint: Path


class CachedTargets:
    """A training set's view of the cache: its own rows instead of the cache's."""

    def __init__(
        self,
        cache: TeacherCache,
        keys: Sequence[str],
        vocabulary: Vocabulary,
        *,
        with_frames: bool = True,
    ) -> None:
        """Look the utterances of a training set up, once.

        Args:
            cache: what the teacher said.
            keys: audio keys of the training set.
            vocabulary: the teacher's tokens.
            with_frames: whether log-probabilities are wanted; an objective without a frame term
                reads none, and learns from any payload.

        Raises:
            CacheMismatch: one is not cached.
        """
        self.cache = cache
        self.with_frames = with_frames
        self.rows = cache.rows(keys)
        self.hypotheses = [vocabulary.encode(text) for text in cache.greedy_texts(self.rows)]

    def log_probs(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return log-probabilities `(batch, frames, vocab)`, float32, and lengths `(batch,)`."""
        if not self.with_frames:
            return np.zeros((len(rows), 0, 0), np.float32), np.zeros(len(rows), np.int64)
        return self.cache.log_probs(self.rows[list(rows)])

    def hypothesis(self, row: int) -> Sequence[int]:
        """Return the tokens of the teacher's greedy hypothesis for one utterance."""
        return self.hypotheses[row]


@dataclass(frozen=True)
class Distillation:
    """Everything that a student and its control have in common."""

    data: PreparedData
    cache: TeacherCache
    name: str
    params: DistillParams
    scratch: Path

    @property
    def vocabulary(self) -> Vocabulary:
        """The teacher's tokens, which its students share."""
        return Vocabulary(self.cache.namespace.tokens)

    @property
    def objective(self) -> ObjectiveParams:
        """The student's own objective, or the common one."""
        return self.params.objective_of(self.name)

    def train_student(self, curves: Path) -> Trained:
        """Train the student on all training audio, transcribed or not.

        Args:
            curves: JSONL file that receives the learning curves.

        Raises:
            CacheMismatch: the cache lacks utterances, or its frame rate does not fit.
        """
        rows = self._student_rows()
        shift = self.params.features.hop_seconds * self._network_reduction()
        objective = DistillationObjective(self.objective, self._rate_ratio(shift))
        data = self._student_set(rows)
        return self._train(f"student {self.name}", data, objective, rows, Curves(curves))

    def train_control(self, curves: Path, num_epochs: int) -> Trained:
        """Train the same network from the same seed for as many steps, on transcripts alone.

        Args:
            curves: JSONL file that receives the learning curves.
            num_epochs: epochs that the student was trained for.
        """
        rows = labelled(self.data, "train")
        data = self._training_set(rows, None)
        like = self._student_set(self._student_rows())
        return self._train(
            f"control {self.name}",
            data,
            TranscriptObjective(),
            rows,
            Curves(curves),
            like=like,
            stop_after=num_epochs,
        )

    def _student_rows(self) -> pd.DataFrame:
        rows = self.data.split("train")
        if self.objective.teacher_share == 0:
            return labelled(self.data, "train")
        self.cache.require(rows["audio_key"])
        return rows

    def _student_set(self, rows: pd.DataFrame) -> TrainingSet:
        if self.objective.teacher_share == 0:
            return self._training_set(rows, None)
        targets = CachedTargets(
            self.cache,
            list(rows["audio_key"]),
            self.vocabulary,
            with_frames=self.objective.frame.weight > 0,
        )
        return self._training_set(rows, targets)

    def _training_set(self, rows: pd.DataFrame, targets: CachedTargets | None) -> TrainingSet:
        packed = pack_features(self.data, rows, self.params.features, self.scratch)
        labels: Sequence[Sequence[int] | None] = [
            None if pd.isna(text) else self.vocabulary.encode(text) for text in rows["text"]
        ]
        training = self.params.training
        return TrainingSet(
            [packed],
            labels,
            self.params.features.hop_seconds,
            training.batch_seconds,
            training.seed,
            targets,
        )

    def _network_reduction(self) -> int:
        return self.params.students[self.name].architecture.time_reduction

    def _rate_ratio(self, student_shift: float) -> int:
        teacher_shift = self.cache.namespace.frame_shift_seconds
        ratio = student_shift / teacher_shift
        needs_frames = self.objective.teacher_share > 0 and self.objective.frame.weight > 0
        if needs_frames and (
            ratio < 1 - RATIO_TOLERANCE or abs(ratio - round(ratio)) > RATIO_TOLERANCE
        ):
            raise CacheMismatch(
                f"student {self.name!r}: one frame per {1000 * student_shift:g} ms, the cached "
                f"teacher has one per {1000 * teacher_shift:g} ms, expected a whole multiple; "
                "change time_reduction, or set frame.weight to 0"
            )
        return max(1, round(ratio))

    def _train(
        self,
        description: str,
        data: TrainingSet,
        objective: DistillationObjective | TranscriptObjective,
        rows: pd.DataFrame,
        curves: Curves,
        *,
        like: TrainingSet | None = None,
        stop_after: int | None = None,
    ) -> Trained:
        params, training = self.params, self.params.training
        architecture = params.students[self.name].architecture
        torch.manual_seed(training.seed)
        network = STUDENTS[architecture.type](
            architecture, params.features.num_mels, len(self.vocabulary)
        )
        digest = run_digest(
            description,
            params.model_dump(exclude={"students"}),
            params.students[self.name].model_dump(),
            self.cache.manifest_digest,
            [*rows["audio_key"], *rows["text"]],
        )
        trainer = Trainer(
            network,
            data,
            objective,
            validation_set(self.data, params.features, training, self.scratch, self.vocabulary),
            training if stop_after is None else training.model_copy(update={"patience": None}),
            self.scratch / f"{description.replace(' ', '-')}-{digest}.pt",
            curves,
            description,
            plan_like=like,
            stop_after=stop_after,
        )
        result = trainer.fit()
        recogniser = Recogniser(
            network.to("cpu"),
            architecture,
            params.features,
            self.vocabulary,
            self.data.sample_rate_hz,
        )
        return Trained(recogniser, result.num_epochs, trainer.checkpoint)
