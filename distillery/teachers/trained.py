"""A teacher trained here by CTC on the transcribed training split."""

from __future__ import annotations

from functools import partial
from itertools import chain

import pandas as pd
import torch

from distillery.architectures.known import TEACHERS
from distillery.data.copies import copy_at
from distillery.data.features import pack_features
from distillery.data.manifest import labelled
from distillery.models.recogniser import Recogniser
from distillery.params.teacher import TrainedTeacherParams
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.launch import fit
from distillery.training.alignment import Texts, check_teacher, teacher_clock
from distillery.training.batches import TrainingSet
from distillery.training.curves import Curves, run_digest
from distillery.training.datasets import validation_set
from distillery.training.objective import TranscriptObjective
from distillery.training.processes import Processes
from distillery.training.token_lists import transcripts
from distillery.training.trainer import Trainer


def train_teacher(params: TrainedTeacherParams, place: Workplace) -> ReadyTeacher:
    """Train a teacher, or go on where a killed run stopped; it has its best epoch's weights.

    Raises:
        CorpusError: there are no transcripts, or too many need more frames than it has.
    """
    processes = Processes.wanted(place.num_processes)
    trainer = _trainer(params, place, processes)
    fit(trainer, partial(_trainer, params, place.to_travel()))
    trainer.network.to("cpu")
    vocabulary, rate = place.data.vocabulary, place.data.sample_rate_hz
    teacher = Recogniser(trainer.network, params.architecture, params.features, vocabulary, rate)
    return ReadyTeacher(teacher, trainer.checkpoint)


def _trainer(params: TrainedTeacherParams, place: Workplace, processes: Processes) -> Trainer:
    """Return the training, for one of the processes that do it."""
    data, scratch = place.data, place.scratch
    rows = labelled(data, "train")
    vocabulary = data.vocabulary
    played = [rows, *(copy_at(rows, speed, data.sample_rate_hz) for speed in params.speed_factors)]
    texts = Texts.transcripts(pd.concat(played), vocabulary, data.sample_rate_hz)
    check_teacher(texts, teacher_clock(params, data.sample_rate_hz), params.training)
    copies = [pack_features(data, copy, params.features, scratch) for copy in played]
    training_set = TrainingSet(
        copies,
        transcripts(rows["text"], vocabulary),
        params.features.hop_seconds,
        params.training.batch_seconds,
        params.training.seed,
    )
    torch.manual_seed(params.training.seed)
    network = TEACHERS[params.architecture.type](
        params.architecture, params.features.num_mels, len(vocabulary)
    )
    if params.training.starts_even:
        network.start_even()
    keys = chain(rows["audio_key"], rows["text"])
    settings = params.model_dump(exclude={"allow_poor"})  # which changes no weight
    digest = run_digest("teacher", settings, vocabulary.tokens, keys, *data.unit_if_unusual)
    return Trainer(
        network,
        training_set,
        TranscriptObjective(),
        validation_set(data, params.features, params.training, scratch, vocabulary),
        params.training,
        scratch / f"teacher-{digest}.pt",
        Curves(processes.curves(place.curves), place.earlier, place.prefix),
        "teacher",
        checkpoint_seconds=place.checkpoint_seconds,
        processes=processes,
    )
