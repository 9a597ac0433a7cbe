"""A workspace whose tiny teacher has learnt to spell the tones, with its outputs in the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData
from distillery.distill.distillation import Distillation
from distillery.models.recogniser import Recogniser
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.teacher_cache.store import TeacherCache
from distillery.training.batches import START, Batch, Moment
from tasks.cache import cache
from tasks.prepare import prepare
from tasks.teacher import teacher
from tests import shared
from tests.tiny import tiny_params, write_corpus, write_params
from tests.unit.augmentations.alignment import divergence, stand_in_place

SPEEDS = [0.9, 1.1]


def lab_params(**distill: Any) -> dict[str, Any]:
    """Return the tiny settings with a teacher that learns, and `distill` merged over its section.

    Targets are exact and hidden states are kept.
    """
    payload = {"log_probs": "f32", "hidden_layers": ["recurrent.0"]}
    settings = tiny_params(cache={"payload": payload, "speed_factors": SPEEDS}, distill=distill)
    settings["teacher"]["training"].update(
        num_epochs=45, learning_rate=1e-2, batch_seconds=4.0, specaugment={"num_time_masks": 0}
    )
    settings["teacher"]["architecture"]["dropout"] = 0.0
    return settings


@dataclass(frozen=True)
class Lab:
    """What prepare, teacher and cache left, opened."""

    root: Path
    data: PreparedData
    cache: TeacherCache
    teacher: Recogniser

    def cached(self, key: str) -> np.ndarray:
        """Return the cached log-probabilities `(frames, vocab)` of an audio key."""
        return np.array(self.cache.log_probs(self.cache.rows([key])).values[0])

    def live(self, waveform: Any) -> np.ndarray:
        """Return what the teacher says now `(frames, vocab)` about a waveform `(samples,)`."""
        (said,) = self.teacher.log_probs([np.asarray(waveform, np.float32)])
        return said

    def batch(self, scratch: Path, moment: Moment = START, **distill: Any) -> Batch:
        """Return a batch of all training utterances at speed 1, for a student of `conv`."""
        run = self.distillation(scratch, **distill)
        data = run._student_set(run.student_rows())
        return data.batch(range(len(self.data.split("train"))), moment)

    def said(self, batch: Batch) -> list[np.ndarray]:
        """Return what the teacher says now about a batch's audio, each `(frames, vocab)`.

        The tiny student hears the features that the teacher hears.
        """
        outputs = self.teacher.forward(batch.features, batch.feature_lengths)
        return [outputs.log_probs[row, :n] for row, n in enumerate(outputs.num_frames)]

    def distillation(self, scratch: Path, **distill: Any) -> Distillation:
        """Return a run of student `conv`, with `distill` merged over its section."""
        write_params(scratch, lab_params(**distill))
        loaded = Params.load(scratch / PARAMS_FILE)
        return Distillation(
            self.data,
            self.cache,
            "conv",
            loaded.distill.for_seed(0),
            scratch,
            speed_factors=loaded.cache.speed_factors,
            root=scratch,
        )


def assert_heard_in_place(lab: Lab, scratch: Path, augmentation: dict[str, Any]) -> None:
    """Make sure that audio is changed, targets are not, and a live teacher agrees with them."""
    batch, plain = lab.batch(scratch, augmentation=augmentation), lab.batch(scratch)
    assert not torch.equal(batch.features, plain.features)
    assert torch.equal(batch.teacher_log_probs, plain.teacher_log_probs)
    pairs = list(zip(targets_of(batch), lab.said(batch), strict=True))
    assert stand_in_place(pairs)
    assert np.mean([divergence(*pair) for pair in pairs]) < 0.2


def assert_draws_repeat(
    augmentation: Callable[[Tensor, np.random.Generator], Tensor], waveform: Tensor
) -> None:
    """Make sure that a generator's seed decides what comes of a waveform `(samples,)`."""
    one, two, three = (augmentation(waveform, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert one.shape == waveform.shape


def targets_of(batch: Batch) -> list[np.ndarray]:
    """Return a batch's re-timed targets without padding, each `(frames, vocab)`."""
    pairs = zip(batch.teacher_log_probs.numpy(), batch.teacher_lengths.tolist(), strict=True)
    return [values[:length] for values, length in pairs]


@pytest.fixture(scope="session")
def lab() -> Lab:
    """A workspace in which prepare, teacher and cache have run; nobody may change it."""
    root = shared.once("lab", _make_lab)
    return Lab(
        root,
        PreparedData.open(root / "data/prepared"),
        TeacherCache.open_current(root / "data/teacher_cache"),
        Recogniser.load(root / "models/teacher", ARCHITECTURES),
    )


def _make_lab(root: Path) -> None:
    write_corpus(root / "corpus", unlabelled=1)
    write_params(root, lab_params())
    for stage in (prepare, teacher, cache):
        stage(root)
