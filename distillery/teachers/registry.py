"""A registered student as the teacher, such as the last champion: nothing is trained.

Source: Furlanello et al. (2018), "Born-Again Neural Networks", arXiv 1805.04770.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import asdict

from distillery.datasets import labelled
from distillery.errors import ModelError
from distillery.manifest import PreparedData
from distillery.params import RegistryTeacherParams
from distillery.recogniser import Recogniser
from distillery.registered import check_model
from distillery.scoring import Counts, count_errors
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.training import Curves

BATCH_UTTERANCES = 16

logger = logging.getLogger(__name__)


def take_registered(params: RegistryTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return the registered model that `make fetch` brought here, as a teacher.

    Raises:
        StageError: it has not been fetched.
        ModelError: it is damaged, made for another sample rate, or lacks characters of the corpus.
        CorpusError: the validation split holds no transcripts.
    """
    source = check_model(place.registered, params.model, "teacher")
    # By name: were it among this stage's imports, dvc.yaml would have to list every student's code
    # and train teachers anew whenever some of it changes. The cache lists it, and audits.
    networks = importlib.import_module("distillery.architectures").ARCHITECTURES
    recogniser = Recogniser.load(place.registered, networks)
    recogniser.check_sample_rate(place.data.sample_rate_hz)
    _check_tokens(recogniser, place.data, params.model)
    wer = validation_wer(recogniser, place.data)
    Curves(place.curves).log(0, {"valid/wer": wer})
    logger.info(
        "teacher: %s, version %s of %s, validation WER %.2f %%",
        params.model,
        source.version,
        source.name,
        100 * wer,
    )
    return ReadyTeacher(recogniser, source=asdict(source))


def validation_wer(recogniser: Recogniser, data: PreparedData) -> float:
    """Return the word error rate on the transcribed validation utterances, as a fraction.

    Raises:
        CorpusError: there is none.
    """
    rows = labelled(data, "valid").sort_values(["num_samples", "audio_key"])
    total = Counts(0, 0, 0, 0)
    for start in range(0, len(rows), BATCH_UTTERANCES):
        batch = list(rows.iloc[start : start + BATCH_UTTERANCES].itertuples())
        texts = recogniser.transcribe([data.waveform(row) for row in batch])
        for row, text in zip(batch, texts, strict=True):
            total = total + count_errors(str(row.text).split(), text.split())
    return total.rate


def _check_tokens(recogniser: Recogniser, data: PreparedData, model: str) -> None:
    texts = data.frame["text"].dropna()
    if unknown := recogniser.vocabulary.unknown("".join(set("".join(texts)))):
        raise ModelError(
            f"teacher: {model} has no token for {sorted(unknown)}, which transcripts of the corpus "
            f"hold, only {list(recogniser.vocabulary.tokens[1:])}; its students share its tokens, "
            "so name another model, or set teacher.kind to trained"
        )
