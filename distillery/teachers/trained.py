"""A teacher trained here by CTC on the transcribed training split."""

from __future__ import annotations

from pathlib import Path

import torch

from distillery.batches import TrainingSet
from distillery.datasets import labelled, validation_set
from distillery.features import pack_features
from distillery.manifest import PreparedData
from distillery.objectives import TranscriptObjective
from distillery.params import TeacherParams
from distillery.recogniser import Recogniser
from distillery.teachers import TEACHERS
from distillery.training import Curves, FitResult, Trainer, run_digest


def train_teacher(
    data: PreparedData, params: TeacherParams, scratch: Path, curves: Path
) -> tuple[Recogniser, FitResult, Path]:
    """Train a teacher, or go on where a killed run stopped.

    Args:
        data: prepared data with transcribed training and validation utterances.
        params: the teacher's settings.
        scratch: folder for packed features and the checkpoint.
        curves: JSONL file that receives the learning curves.

    Returns:
        The teacher with its best epoch's weights, how training went, and the checkpoint's path,
        which the caller removes once the teacher is saved.
    """
    rows = labelled(data, "train")
    copies = [
        pack_features(data, rows, params.features, scratch, speed)
        for speed in (1.0, *params.speed_factors)
    ]
    vocabulary = data.vocabulary
    training_set = TrainingSet(
        copies,
        [vocabulary.encode(text) for text in rows["text"]],
        params.features.hop_seconds,
        params.training.batch_seconds,
        params.training.seed,
    )
    torch.manual_seed(params.training.seed)
    network = TEACHERS[params.architecture.type](
        params.architecture, params.features.num_mels, len(vocabulary)
    )
    keys = [*rows["audio_key"], *rows["text"]]
    digest = run_digest("teacher", params.model_dump(), vocabulary.tokens, keys)
    trainer = Trainer(
        network,
        training_set,
        TranscriptObjective(),
        validation_set(data, params.features, params.training, scratch, vocabulary),
        params.training,
        scratch / f"teacher-{digest}.pt",
        Curves(curves),
        "teacher",
    )
    result = trainer.fit()
    network.to("cpu")
    teacher = Recogniser(
        network, params.architecture, params.features, vocabulary, data.sample_rate_hz
    )
    return teacher, result, trainer.checkpoint
