"""A workspace whose tiny teacher has learnt to spell the tones, with its outputs in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from tests.tiny import tiny_params, write_corpus, write_params

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


def targets_of(batch: Batch) -> list[np.ndarray]:
    """Return a batch's re-timed targets without padding, each `(frames, vocab)`."""
    pairs = zip(batch.teacher_log_probs.numpy(), batch.teacher_lengths.tolist(), strict=True)
    return [values[:length] for values, length in pairs]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A workspace in which prepare, teacher and cache have run; nobody may change it."""
    root = tmp_path_factory.mktemp("lab")
    write_corpus(root / "corpus", unlabelled=1)
    write_params(root, lab_params())
    for stage in (prepare, teacher, cache):
        stage(root)
    return Lab(
        root,
        PreparedData.open(root / "data/prepared"),
        TeacherCache.open_current(root / "data/teacher_cache"),
        Recogniser.load(root / "models/teacher", ARCHITECTURES),
    )
