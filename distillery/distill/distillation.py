"""Students trained towards the cached outputs of a teacher, and their controls.

The teacher itself is never loaded here: all that training knows of it comes from the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from distillery.architectures.known import STUDENTS
from distillery.augmentations.augmenter import Augmenter, Effects
from distillery.data.copies import (
    LEARNT_COLUMNS,
    training_rows,
    waveform_of,
    with_copies,
    with_unheard_copies,
)
from distillery.data.features import extractor_of, pack_features, unpacked_features
from distillery.data.manifest import PreparedData, labelled
from distillery.data.text import Vocabulary
from distillery.distill.filtering import Filtered, filter_hypotheses
from distillery.distill.frames import learns_sparse_frames
from distillery.distill.kept_texts import candidates_of
from distillery.distill.objective import DistillationObjective
from distillery.distill.start import Start, initialise
from distillery.distill.targets import CachedTargets, weighted_texts
from distillery.distill.vocabulary import vocabulary_of
from distillery.errors import CacheMismatch, CorpusError
from distillery.models.layers import Network
from distillery.models.recogniser import Recogniser
from distillery.params.distill import DistillParams
from distillery.params.models import FeatureParams
from distillery.params.objective import ObjectiveParams
from distillery.teacher_cache.store import TeacherCache
from distillery.training.alignment import (
    STUDENTS_LIMIT,
    FeatureClock,
    Texts,
    check_alignable,
    student_clock,
)
from distillery.training.batches import Features, TrainingSet
from distillery.training.curves import Curves, run_digest
from distillery.training.datasets import validation_set
from distillery.training.objective import Objective, TranscriptObjective
from distillery.training.points import Point
from distillery.training.token_lists import transcripts
from distillery.training.trainer import Trainer

RATIO_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Trained:
    """A trained student or control, and the checkpoint to remove once it is saved."""

    recogniser: Recogniser
    num_epochs: int
    checkpoint: Path
    init: Start | None = None
    """Where its first weights came from; None: they were random."""
    valid_wer: float = math.inf
    """Of its best epoch, whose weights it has."""
    converged: bool = False
    """Whether validation had stopped improving when training ended."""


@dataclass(frozen=True)
class Generation:
    """Which of several generations of a student a run trains, see generations.py."""

    number: int
    """From 1."""
    is_last: bool
    teacher: TeacherCache
    """Of the first generation's teacher, which is no student."""
    earlier: Sequence[Point] = ()
    """Points of the former generations' curves."""

    def curves(self, path: Path) -> Curves:
        """Return curves behind those of earlier generations; only the last one's bear no prefix."""
        prefix = "" if self.is_last else f"generation-{self.number}/"
        return Curves(path, self.earlier, prefix)


@dataclass(frozen=True)
class Distillation:
    """Everything that a student and its control have in common."""

    data: PreparedData
    cache: TeacherCache
    name: str
    params: DistillParams
    scratch: Path
    models: Path = Path("models")
    """Folder of all models, for a student whose first weights come from one."""
    generation: Generation | None = None
    """None where there is one only; else `cache` is what the generation before says."""
    speed_factors: Sequence[float] = ()
    """Of the copies that are trained on beside the audio itself; the cache holds them."""
    root: Path = Path()
    """Where folders that the settings name start from."""
    pace: PreparedData | None = None
    """Data whose epochs have as many steps as those of this run; None: its own."""
    checkpoint_seconds: float = Trainer.checkpoint_seconds
    """Time between checkpoints inside an epoch; no training is named by it."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the student and its control write in."""
        return vocabulary_of(self.name, self.params, self.data, self._first_cache, self.models)

    @property
    def _first_cache(self) -> TeacherCache:
        """What the teacher said, and no earlier generation of the student."""
        return self.cache if self.generation is None else self.generation.teacher

    @property
    def objective(self) -> ObjectiveParams:
        """The student's own objective, or the common one."""
        return self.params.objective_of(self.name)

    @property
    def features(self) -> FeatureParams:
        """What the student and its control hear."""
        return self.params.features_of(self.name)

    @property
    def pace_keys(self) -> list[str] | None:
        """Audio keys of the training split that sets the number of steps, if it is not our own."""
        return None if self.pace is None else list(self.pace.split("train")["audio_key"])

    @cached_property
    def effects(self) -> Effects:
        """The augmentations that are switched on.

        Raises:
            CorpusError: a folder to draw from cannot be used.
        """
        return Effects.build(self.params.augmentation, self.root, self.data.sample_rate_hz)

    @cached_property
    def filtered(self) -> Filtered | None:
        """What the filter says of the training split; None where it is not asked."""
        if not self.objective.uses_teacher or not self.params.filter.enabled:
            return None
        rows = training_rows(self.data, self.speed_factors, LEARNT_COLUMNS)
        candidates = candidates_of(self.cache, rows)
        return filter_hypotheses(candidates, self.params.filter, self.data.unit)

    def train_student(self, curves: Path) -> Trained:
        """Train the student on all training audio, transcribed or not, that the filter leaves.

        Args:
            curves: JSONL file that receives the learning curves.

        Raises:
            CacheMismatch: the cache lacks utterances, or its frame rate or payload does not fit.
            CorpusError: the filter leaves nothing to learn from, or too much of it has too few
                frames.
        """
        rows = self.student_rows()
        ratio = self._rate_ratio(self._clock.shift_seconds)
        self.check_student_texts()
        sparse = self.objective.uses_frames and learns_sparse_frames(
            self.name, self.objective.frame.type, self.cache.namespace, self.vocabulary, ratio
        )
        objective_of = partial(
            DistillationObjective.for_network,
            params=self.objective,
            rate_ratio=ratio,
            sparse_targets=sparse,
            teacher_widths=self.cache.namespace.hidden,
            num_tokens=len(self.vocabulary),
            seed=self.params.training.seed,
        )
        data = self._student_set(rows)
        generation = self.generation
        which = "" if generation is None else f" generation {generation.number}"
        return self._train(
            f"student {self.name}{which}",
            data,
            objective_of,
            rows,
            Curves(curves) if generation is None else generation.curves(curves),
            like=self._pace_set(),
            init=self.params.students[self.name].init,
        )

    def train_control(self, curves: Path, num_epochs: int | None = None) -> Trained:
        """Train the same network from the same seed for as many steps, on transcripts alone.

        Where validation decides how many these are, it decides for each by the same rule and with
        the same maximum; an epoch of the control has as many steps as one of the student.

        It starts from random weights even where the student starts from its teacher's: what they
        are worth is part of the gain. Where the student goes on from a registered one, so does its
        control, which is thus fine-tuned on transcripts: what is gained is distillation's alone.

        Args:
            curves: JSONL file that receives the learning curves.
            num_epochs: epochs that the student was trained for, read where the settings have a
                number; None: all that they have.

        Raises:
            CorpusError: too many transcripts need more frames than it has.
        """
        rows, known = self._labelled_rows(), self.params.training.known_epochs
        self._check_texts("control", [self._transcripts(rows)])
        data = self._training_set(rows, None)
        like = self._pace_set()
        if like is None:
            like = self._student_set(self.student_rows())
        return self._train(
            f"control {self.name}",
            data,
            lambda _: TranscriptObjective(),
            rows,
            Curves(curves),
            like=like,
            stop_after=known and (num_epochs or known),
            init=self.params.students[self.name].registered_init,
        )

    def check_student_texts(self) -> None:
        """Make sure that the student has frames enough for what it learns by CTC; say it once.

        Raises:
            CorpusError: too many texts need more.
            CacheMismatch: the cache lacks utterances.
        """
        _ = self._texts_are_checked

    @cached_property
    def _texts_are_checked(self) -> bool:
        rows, objective = self.student_rows(), self.objective
        kinds = [self._transcripts(rows)] if objective.uses_transcripts else []
        if objective.uses_sequence:
            own = rows[rows["fit"]]
            if self._transcripts_replace_hypotheses:  # they are a kind of their own, above
                own = own[own["text"].isna()]
            cached = self.cache.rows(own["heard_key"])
            num = [len(item) for item in weighted_texts(self.cache, cached, objective.sequence)]
            said = weighted_texts(self.cache, cached, objective.sequence)
            kinds.append(
                Texts.of(
                    "texts of the teacher",
                    own.loc[own.index.repeat(num), ["utterance_id", "duration_seconds"]],
                    (text for item in said for text, _ in item),
                    self.vocabulary,
                    self.data.sample_rate_hz,
                )
            )
        self._check_texts("student", kinds)
        return True

    @property
    def _transcripts_replace_hypotheses(self) -> bool:
        """Whether transcripts are learnt from in place of the teacher's texts."""
        objective = self.objective
        return objective.uses_transcripts and objective.sequence.where_transcribed == "transcript"

    def _transcripts(self, rows: pd.DataFrame) -> Texts:
        return Texts.transcripts(rows, self.vocabulary, self.data.sample_rate_hz)

    def _check_texts(self, role: str, kinds: Sequence[Texts]) -> None:
        generation = self.generation if role == "student" else None
        which = "" if generation is None else f" generation {generation.number}"
        check_alignable(
            f"{role} {self.name}{which}",
            kinds,
            self._clock,
            self.params.training.max_unalignable_fraction,
            STUDENTS_LIMIT,
        )

    @property
    def _clock(self) -> FeatureClock:
        """How student and control count frames."""
        shift = self.cache.namespace.frame_shift_seconds
        return student_clock(self.params, self.name, self.data.sample_rate_hz, shift)

    def student_rows(self) -> pd.DataFrame:
        """Return what a student learns from, copies at other speeds among it.

        Column `fit` says whether from the teacher, too; see `with_unheard_copies` for what of it.

        An utterance whose hypothesis the filter dropped keeps its transcript; one that has none is
        left out.

        Raises:
            CacheMismatch: the cache lacks utterances.
            CorpusError: the filter leaves nothing to learn from.
        """
        if not self.objective.uses_teacher:
            return self._labelled_rows().assign(fit=False)
        return with_unheard_copies(
            self._rows_of_the_cache(),
            self.params.augmentation.speed_factors,
            self.data.sample_rate_hz,
        )

    def _rows_of_the_cache(self) -> pd.DataFrame:
        """Return what the teacher heard and a student learns from."""
        rows = training_rows(self.data, self.speed_factors, LEARNT_COLUMNS).assign(fit=True)
        self.cache.require(rows["audio_key"])
        if self.filtered is None:
            return rows
        rows["fit"] = self.filtered.fit
        is_kept = rows["fit"] | (rows["text"].notna() & self.objective.uses_transcripts)
        kept = rows if is_kept.all() else rows[is_kept].reset_index(drop=True)
        if kept.empty:
            raise CorpusError(
                f"split 'train': distill.filter dropped the teacher's hypotheses of all {len(rows)}"
                f" utterances ({self.filtered.describe_drops()}) and no transcripts are used, "
                "expected something to learn from; train the teacher longer, or loosen the filter"
            )
        return kept

    def _labelled_rows(self) -> pd.DataFrame:
        rows = labelled(self.data, "train")
        factors = [*self.speed_factors, *self.params.augmentation.speed_factors]
        return with_copies(rows, factors, self.data.sample_rate_hz)

    def _pace_set(self) -> TrainingSet | None:
        """Return what the student would be trained on, had it all the data that sets the pace."""
        if self.pace is None:
            return None
        whole = replace(self, data=self.pace, pace=None)
        return whole._training_set(whole.student_rows(), None)

    def _student_set(self, rows: pd.DataFrame) -> TrainingSet:
        if not self.objective.uses_teacher:
            return self._training_set(rows, None)
        targets = CachedTargets(
            self.cache,
            rows["heard_key"],
            self.vocabulary,
            fit=rows["fit"].to_numpy(),
            stretch=rows["stretch"].to_numpy(),
            with_frames=self.objective.uses_frames,
            temperature=self.objective.frame.temperature,
            sequence=self.objective.sequence,
            transcripts=(
                (None if pd.isna(text) else text for text in rows["text"])
                if self._transcripts_replace_hypotheses
                else None
            ),
            hidden_layers=self.objective.teacher_layers,
        )
        return self._training_set(rows, targets)

    def _training_set(self, rows: pd.DataFrame, targets: CachedTargets | None) -> TrainingSet:
        augment = None
        features: Features
        if self.params.augmentation.changes_audio:
            augment = self._augmenter(rows)
            seconds = rows["duration_seconds"].to_numpy() * self.data.sample_rate_hz
            num_samples = np.rint(seconds).astype(np.int64)
            features = unpacked_features(augment.extractor.num_frames(num_samples))
        else:
            features = pack_features(self.data, rows, self.features, self.scratch)
        training = self.params.training
        return TrainingSet(
            [features],
            transcripts(rows["text"], self.vocabulary),
            self.features.hop_seconds,
            training.batch_seconds,
            training.seed,
            targets,
            augment,
        )

    def _augmenter(self, rows: pd.DataFrame) -> Augmenter:
        student, listed = self.params.students[self.name], list(rows.itertuples())
        return Augmenter(
            self.effects,
            lambda row: waveform_of(self.data, listed[row]),
            list(rows["audio_key"]),
            extractor_of(self.features, self.data.sample_rate_hz),
            student.architecture.time_reduction,
            self._rate_ratio(self._clock.shift_seconds),
            self.vocabulary.between,
            self.params.training.seed,
        )

    def _rate_ratio(self, student_shift: float) -> int:
        teacher_shift = self.cache.namespace.frame_shift_seconds
        ratio = student_shift / teacher_shift
        if (self.objective.uses_frames or self.objective.uses_hidden) and (
            ratio < 1 - RATIO_TOLERANCE or abs(ratio - round(ratio)) > RATIO_TOLERANCE
        ):
            raise CacheMismatch(
                f"student {self.name!r}: one frame per {1000 * student_shift:g} ms, the cached "
                f"teacher has one per {1000 * teacher_shift:g} ms, expected a whole multiple; "
                "change time_reduction, or set frame.weight and hidden.weight to 0"
            )
        return max(1, round(ratio))

    def _train(
        self,
        description: str,
        data: TrainingSet,
        objective_of: Callable[[Network], Objective],
        rows: pd.DataFrame,
        curves: Curves,
        *,
        like: TrainingSet | None = None,
        stop_after: int | None = None,
        init: str | None = None,
    ) -> Trained:
        params, training = self.params, self.params.training
        description = f"{description} seed {training.seed}"
        recogniser, record = self._begin(init)
        network = recogniser.network
        digest = run_digest(
            description,
            params.model_dump(exclude={"students"}),
            params.students[self.name].model_dump(),
            self.cache.manifest_digest,
            chain(rows["audio_key"], rows["text"]),
            record,
            self.effects.digests,
            *([] if self.pace_keys is None else [self.pace_keys]),
            *self.data.unit_if_unusual,
        )
        trainer = Trainer(
            network,
            data,
            objective_of(network),
            validation_set(self.data, self.features, training, self.scratch, self.vocabulary),
            training if stop_after is None else training.model_copy(update={"patience": None}),
            self.scratch / f"{description.replace(' ', '-')}-{digest}.pt",
            curves,
            description,
            plan_like=like,
            stop_after=stop_after,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        result = trainer.fit()
        network.to("cpu")
        return Trained(
            recogniser,
            result.num_epochs,
            trainer.checkpoint,
            record,
            result.best_wer,
            result.converged,
        )

    def _begin(self, init: str | None) -> tuple[Recogniser, Start | None]:
        """Return a student with its first weights, and where these came from."""
        training, architecture = self.params.training, self.params.students[self.name].architecture
        torch.manual_seed(training.seed)
        network = STUDENTS[architecture.type](
            architecture, self.features.num_mels, len(self.vocabulary)
        )
        if training.starts_even:
            network.start_even()
        recogniser = Recogniser(
            network, architecture, self.features, self.vocabulary, self.data.sample_rate_hz
        )
        if init is None:
            return recogniser, None
        teacher_weights = str(self._first_cache.namespace.teacher["weights"])
        return recogniser, initialise(recogniser, self.name, init, self.models, teacher_weights)
