"""A pre-trained model made ready for the prepared corpus, and what that costs, told at once.

Its tokens are mapped to the corpus's where they can be; how much probability the dropped ones had
is measured on the validation split.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch

from distillery.data.lengths import in_batches_by_length
from distillery.data.manifest import PreparedData
from distillery.files import Json
from distillery.params.teacher import PretrainedTeacherParams
from distillery.teachers.backend import Backend
from distillery.teachers.base import ReadyTeacher, Workplace
from distillery.teachers.hearing import Hearing
from distillery.teachers.pretrained import PretrainedTeacher, logger
from distillery.teachers.token_map import NoMap, TokenMap, match_tokens

MASS_UTTERANCES = 256
"""At most so many validation utterances tell how much mass dropped tokens have."""
MUCH_DROPPED = 1e-2
"""Mean mass a frame, above which dropped tokens are worth a warning."""
BATCH_UTTERANCES = 8


def adapt(
    kind: str,
    backend: Backend,
    params: PretrainedTeacherParams,
    place: Workplace,
    source: Json,
) -> ReadyTeacher:
    """Return a backend as a teacher of the prepared corpus, and say what that costs.

    Args:
        kind: as the settings call it.
        backend: the model.
        params: its settings.
        place: for the corpus's tokens, transcripts and rate.
        source: where the model comes from, for source.json.
    """
    data = place.data
    found = match_tokens(backend.table, data.vocabulary, data.frame["text"].dropna())
    token_map = found if isinstance(found, TokenMap) else None
    teacher = PretrainedTeacher(
        kind,
        backend,
        data.vocabulary if token_map is None else token_map.vocabulary,
        data.sample_rate_hz,
        Hearing.of(params),
        token_map,
    )
    warn_of_rate(backend.sample_rate_hz, data.sample_rate_hz)
    if isinstance(found, NoMap):
        logger.warning(
            "teacher: no frames for students, %s; what works are its texts (sequence) and its "
            "hidden states (hidden), so frame.weight must be 0",
            found.reason,
        )
        return ReadyTeacher(teacher, source={**source, "tokens": found.reason})
    if not found.vocabulary.is_of_characters:
        logger.warning(
            "teacher: writes in %d subwords; what it says frame by frame teaches students with "
            "tokens: {type: teacher}, all others learn from its texts (sequence) and its hidden "
            "states (hidden), with frame.weight 0",
            len(found.vocabulary),
        )
    mass = dropped_mass(teacher, found, data)
    return ReadyTeacher(teacher, source={**source, **asdict(mass)})


def warn_of_rate(model_hz: int, data_hz: int) -> None:
    """Warn where a corpus has a lower rate than a model was made for."""
    if data_hz < model_hz:
        logger.warning(
            "teacher: made for %d Hz, the corpus has %d Hz and is resampled: nothing above %d Hz "
            "is there, which speech of the teacher's training had, so expect more errors than "
            "published; compare with the validation split's, or take a teacher made for %d Hz",
            model_hz,
            data_hz,
            data_hz // 2,
            data_hz,
        )


@dataclass(frozen=True)
class DroppedMass:
    """What students never learn of a teacher: the mass of tokens that the corpus lacks."""

    dropped_tokens: Sequence[str]
    dropped_mass_mean: float | None = None
    """Of a frame; None where no token was dropped."""
    dropped_mass_max: float | None = None
    """Of any frame."""


def dropped_mass(
    teacher: PretrainedTeacher, token_map: TokenMap, data: PreparedData
) -> DroppedMass:
    """Return how much mass dropped tokens have, and warn where it is much.

    Args:
        teacher: the teacher.
        token_map: its tokens' map.
        data: prepared data; their validation split is heard.
    """
    names = [teacher.backend.table.tokens[index] for index in token_map.dropped]
    if not names or data.split("valid").empty:
        return DroppedMass(names)
    masses = torch.cat(
        [
            token_map.dropped_mass(item)
            for waveforms in _sample(data)
            for item in teacher.own_log_probs(waveforms)
        ]
    )
    mean, largest = float(masses.mean()), float(masses.max())
    logger.log(
        logging.WARNING if mean > MUCH_DROPPED else logging.INFO,
        "teacher: %d of its tokens (%s) are none of the corpus's and were dropped; they had %.2g "
        "of a frame's probability on average, at most %.2g%s",
        len(names),
        ", ".join(names[:8]),
        mean,
        largest,
        "; that much of it students cannot learn, see prepare.alphabet"
        if mean > MUCH_DROPPED
        else "",
    )
    return DroppedMass(names, mean, largest)


def _sample(data: PreparedData) -> Iterator[list[np.ndarray]]:
    rows: pd.DataFrame = data.split("valid").sort_values("audio_key")[:MASS_UTTERANCES]
    rows = rows.sort_values(["num_samples", "audio_key"])
    listed, lengths = list(rows.itertuples()), rows["num_samples"].to_numpy()
    for batch in in_batches_by_length(range(len(rows)), lengths, max_items=BATCH_UTTERANCES):
        yield [data.waveform(listed[position]) for position in batch]
