"""What models hear with the help of a language model, each with weights of its own."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd

from distillery.data.manifest import PreparedData
from distillery.language_model.decoder import LanguageModelDecoder
from distillery.language_model.settings import Tuned
from distillery.language_model.tuning import (
    describe,
    log_probs_of,
    tune_for,
    untuned_decoder,
    write_language_model,
)
from distillery.models.base import Teacher
from distillery.params.language_model import LanguageModelParams

Name = TypeVar("Name", bound=Hashable)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """What a model heard with the language model, and the weights that its validation chose."""

    texts: Sequence[str]
    tuned: Tuned


def decode_with_language_model(
    data: PreparedData,
    rows: pd.DataFrame,
    recognisers: Mapping[Name, Teacher],
    params: LanguageModelParams,
) -> dict[Name, Decoded]:
    """Return each model's texts of some utterances; models that give no frames are left out.

    Args:
        data: prepared data.
        rows: its utterances to decode.
        recognisers: the models.
        params: settings of the language model.

    Raises:
        CorpusError: no transcript holds a word, or no validation utterance has one.
    """
    decoders: dict[tuple[str, ...], LanguageModelDecoder] = {}
    decoded = {}
    with tempfile.TemporaryDirectory() as folders:  # which decoders read while they are tuned
        for name, recogniser in recognisers.items():
            if not recogniser.gives_frames:
                continue
            tokens = recogniser.vocabulary.tokens
            if tokens not in decoders:
                folder = Path(folders) / str(len(decoders))
                folder.mkdir()
                write_language_model(data, recogniser.vocabulary, params, folder)
                decoders[tokens] = untuned_decoder(folder, recogniser.vocabulary, params)
            decoder = decoders[tokens]
            tuned = tune_for(decoder, data, recogniser, params)
            for line in describe(str(name), tuned, data.unit_of("valid")):
                logger.info("%s", line)
            items = log_probs_of(recogniser, data, rows)
            decoded[name] = Decoded([texts[0] for texts in decoder.n_best(items)], tuned)
    return decoded
