"""A registered student as the teacher, such as the last champion: nothing is trained.

Source: Furlanello et al. (2018), "Born-Again Neural Networks", arXiv 1805.04770.
"""

from __future__ import annotations

from dataclasses import asdict

from distillery.architectures.known import load_recogniser
from distillery.data.manifest import PreparedData
from distillery.errors import ModelError
from distillery.models.recogniser import Recogniser
from distillery.params.teacher import RegistryTeacherParams
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.tracking.fetched import check_model


def take_registered(params: RegistryTeacherParams, place: Workplace) -> ReadyTeacher:
    """Return the registered model that `make fetch` brought here, as a teacher.

    Raises:
        StageError: it has not been fetched.
        ModelError: it is damaged, made for another sample rate, or lacks characters of the corpus.
    """
    source = check_model(place.registered, params.model, "teacher")
    recogniser = load_recogniser(place.registered)
    recogniser.check_sample_rate(place.data.sample_rate_hz)
    _check_tokens(recogniser, place.data, params.model)
    return ReadyTeacher(recogniser, source=asdict(source))


def _check_tokens(recogniser: Recogniser, data: PreparedData, model: str) -> None:
    texts = data.frame["text"].dropna()
    if unknown := recogniser.vocabulary.unknown("".join(set("".join(texts)))):
        raise ModelError(
            f"teacher: {model} has no token for {sorted(unknown)}, which transcripts of the corpus "
            f"hold, only {list(recogniser.vocabulary.tokens[1:])}; its students share its tokens, "
            "so name another model, or set teacher.kind to trained"
        )
