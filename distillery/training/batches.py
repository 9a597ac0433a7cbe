"""Batches for training: gathered in process from memory maps, bucketed by length, seeded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.features import gather
from distillery.data.lengths import in_batches_by_length
from distillery.models.share import Share

BUCKET_BATCHES = 50
NO_LABELS = -1


@dataclass(frozen=True)
class Batch:
    """What one step sees; padding is zero everywhere."""

    features: Tensor  # (batch, feature_frames, mels)
    feature_lengths: Tensor  # (batch,)
    labels: Tensor  # (batch, tokens)
    label_lengths: Tensor  # (batch,), -1 = no transcript
    teacher_log_probs: Tensor  # (batch, teacher_frames, vocab or kept); empty without a teacher
    teacher_lengths: Tensor  # (batch,)
    hypotheses: Tensor  # (batch, hypotheses, tokens)
    hypothesis_lengths: Tensor  # (batch, hypotheses), -1 = no hypothesis
    hypothesis_weights: Tensor  # (batch, hypotheses), adding up to 1; 0 = no hypothesis
    teacher_ids: Tensor | None = None  # as in TeacherFrames
    teacher_softened: Tensor | None = None  # as in TeacherFrames
    teacher_hidden: Mapping[str, Tensor] = field(default_factory=dict)  # as in TeacherFrames

    def to(self, device: str) -> Batch:
        """Return the batch on another device."""
        tensors = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name != "teacher_hidden"
        }
        hidden = {name: states.to(device) for name, states in self.teacher_hidden.items()}
        moved = {k: x.to(device) for k, x in tensors.items() if x is not None}
        return replace(self, **moved, teacher_hidden=hidden)


@dataclass(frozen=True)
class TeacherFrames:
    """What a teacher says frame by frame about some utterances.

    Dense targets hold log-probabilities of the whole vocabulary. Sparse targets hold those of the
    likeliest tokens, `kept` at most; what is missing to one is the mass of the others.
    """

    log_probs: Tensor
    """`(batch, frames, vocab or kept)`, float32, at temperature 1."""
    lengths: Tensor
    """`(batch,)`; 0 where the teacher has no output."""
    ids: Tensor | None = None
    """Sparse: the kept tokens `(batch, frames, kept)`, -1 where a place is empty. Dense: None."""
    softened: Tensor | None = None
    """Sparse: as log_probs, at the temperature of the loss. Dense: None."""
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
    """Hidden states by layer, `(batch, frames, width)`, float16, those that the loss reads."""


class TeacherTargets(Protocol):
    """Where a batch's teacher outputs come from."""

    def frames(self, rows: Sequence[int]) -> TeacherFrames:
        """Return what the teacher says frame by frame."""

    def hypotheses(self, row: int) -> Sequence[tuple[Sequence[int], float]]:
        """Return tokens and weight of the teacher's hypotheses; nothing where there is none."""


@dataclass(frozen=True)
class Moment:
    """Which step of training a batch is for."""

    epoch: int = 0
    step: int = 0
    """In the epoch."""


START = Moment()


class Labels(Protocol):
    """Tokens of many transcripts, such as `TokenLists`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Sequence[int] | None:
        """Return those of one utterance; None where it has no transcript."""


class Features(Protocol):
    """What a network gets of many utterances, such as `PackedFeatures`."""

    def __len__(self) -> int: ...

    @property
    def num_frames(self) -> np.ndarray:
        """Feature frames of each utterance `(utterances,)`."""

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one utterance's features `(feature_frames, mels)`."""


class Augment(Protocol):
    """What changes audio in every step, and its targets with it."""

    def __call__(self, batch: Batch, rows: Sequence[int], moment: Moment) -> Batch:
        """Return a batch with features for one that has none, of some rows of a training set."""


@dataclass(frozen=True)
class TrainingSet:
    """Utterances to train on; several copies of the features (other speeds) count as more."""

    copies: Sequence[Features]
    labels: Labels
    frame_seconds: float
    batch_seconds: float
    seed: int
    targets: TeacherTargets | None = None
    augment: Augment | None = None
    """Makes features and changes targets; `copies` then say how long utterances are, no more."""

    def __len__(self) -> int:
        return len(self.copies) * len(self.labels)

    @cached_property
    def _num_frames(self) -> np.ndarray:
        """Feature frames of each item `(items,)`."""
        return np.concatenate([copy.num_frames for copy in self.copies])

    def plan(self, epoch: int, num_batches: int | None = None) -> list[list[int]]:
        """Return one epoch's batches as lists of item indices, in a seeded order.

        Items are shuffled, sorted by length inside windows of some batches, cut at
        `batch_seconds` of padded audio, and the batches are shuffled again.

        Args:
            epoch: which epoch; equal arguments give equal plans.
            num_batches: repeat or cut the epoch to this many batches.
        """
        batches = self._plan_once(epoch, 0)
        for repeat in range(1, 1 + (num_batches or 0) // max(1, len(batches))):
            batches += self._plan_once(epoch, repeat)
        return batches[:num_batches]

    def _plan_once(self, epoch: int, repeat: int) -> list[list[int]]:
        generator = np.random.default_rng([self.seed, epoch, repeat])
        seconds = self._num_frames * self.frame_seconds
        order = generator.permutation(len(self))
        per_batch = max(1, int(self.batch_seconds / max(seconds.mean(), 1e-9)))
        batches: list[list[int]] = []
        for start in range(0, len(order), per_batch * BUCKET_BATCHES):
            window = order[start : start + per_batch * BUCKET_BATCHES]
            by_length = window[np.argsort(seconds[window], kind="stable")]
            batches += self._cut(by_length, seconds)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _cut(self, order: np.ndarray, seconds: np.ndarray) -> Iterator[list[int]]:
        return in_batches_by_length(order.tolist(), seconds, max_padded=self.batch_seconds)

    def batch(
        self, items: Sequence[int], moment: Moment = START, share: Share | None = None
    ) -> Batch:
        """Gather one batch.

        Args:
            items: of the plan.
            moment: which step it is for; augmentation depends on it.
            share: which of its rows to return, padded as the whole batch is; None: all.
        """
        if share is not None:
            assert self.augment is None  # it would draw for other rows
            batch = self._gather([items[row] for row in share.rows])
            missing = int(self._num_frames[items].max()) - batch.features.shape[1]
            padded = F.pad(batch.features, (0, 0, 0, max(0, missing)))
            return replace(batch, features=padded)
        batch = self._gather(items)
        if self.augment is None:
            return batch
        return self.augment(batch, [item % len(self.labels) for item in items], moment)

    def _gather(self, items: Sequence[int]) -> Batch:
        count = len(self.labels)
        rows = [item % count for item in items]
        features, lengths = gather(
            [self.copies[item // count][row] for item, row in zip(items, rows, strict=True)]
        )
        labels, label_lengths = pad_tokens([self.labels[row] for row in rows])
        if self.targets is None:
            empty = torch.zeros(len(rows), 0, dtype=torch.long)
            nothing = torch.zeros(len(rows), dtype=torch.long)
            return Batch(
                features,
                lengths,
                labels,
                label_lengths,
                empty.float(),
                nothing,
                *pad_hypotheses([()] * len(rows)),
            )
        frames = self.targets.frames(rows)
        return Batch(
            features,
            lengths,
            labels,
            label_lengths,
            frames.log_probs,
            frames.lengths,
            *pad_hypotheses([self.targets.hypotheses(row) for row in rows]),
            frames.ids,
            frames.softened,
            frames.hidden,
        )

    def inference_plan(self) -> list[list[int]]:
        """Return the rows of batches of everything once, shortest first."""
        num_frames = self.copies[0].num_frames
        order = np.argsort(num_frames, kind="stable")
        return list(self._cut(order, num_frames * self.frame_seconds))

    def inference_batches(
        self, first: int = 0, step: int = 1
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Yield rows, features and lengths of the batches of `inference_plan`.

        Args:
            first: batch to begin with; those before it are not read.
            step: from one batch to the next; those between are not read.
        """
        for rows in itertools.islice(self.inference_plan(), first, None, step):
            yield rows, *gather([self.copies[0][row] for row in rows])


def pad_tokens(items: Sequence[Sequence[int] | None]) -> tuple[Tensor, Tensor]:
    """Return token indices `(batch, tokens)`, zeros behind, and lengths; -1 stands for None."""
    width = max((len(item) for item in items if item is not None), default=0)
    padded = [[*(item or ()), *[0] * (width - len(item or ()))] for item in items]
    tokens = torch.tensor(padded, dtype=torch.long).reshape(len(items), width)
    lengths = torch.tensor([NO_LABELS if item is None else len(item) for item in items])
    return tokens, lengths


def pad_hypotheses(
    items: Sequence[Sequence[tuple[Sequence[int], float]]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens `(batch, hypotheses, tokens)`, lengths and weights `(batch, hypotheses)`.

    There is room for one hypothesis at least; where there is none, its length is -1, its weight 0.
    """
    most = max(1, *map(len, items))
    filled = [[*item, *[(None, 0.0)] * (most - len(item))] for item in items]
    tokens, lengths = pad_tokens([tokens for item in filled for tokens, _ in item])
    weights = torch.tensor([[weight for _, weight in item] for item in filled])
    shape = (len(items), most)
    return tokens.reshape(*shape, tokens.shape[-1]), lengths.reshape(shape), weights
