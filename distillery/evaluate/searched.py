"""What models hear when their texts are searched for: students as they will be served, and how sure
they may be of their words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd

from distillery.data.manifest import PreparedData
from distillery.data.scoring import count_text_errors
from distillery.data.units import Unit
from distillery.decoder.confidence import Confidence
from distillery.decoder.decoder import Decoder, texts_of
from distillery.decoder.making import Learnt, describe, tune, tuning_rows
from distillery.decoder.word_model import save
from distillery.evaluate.confidence import fit_confidence
from distillery.evaluate.models import TrainedModel
from distillery.evaluate.summary import TunedSearch
from distillery.language_model.evaluation import Decoded, decode_with_language_model
from distillery.language_model.tuning import log_probs_of
from distillery.models.base import Teacher
from distillery.params.language_model import LanguageModelParams

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Searched:
    """What a model heard in some utterances, and the search that validation chose for it."""

    texts: Sequence[str]
    tuned: TunedSearch


@dataclass(frozen=True)
class Searches:
    """All that was searched, and what students and controls are served with."""

    found: Mapping[TrainedModel, Searched] = field(default_factory=dict)
    decoders: Mapping[TrainedModel, Decoder] = field(default_factory=dict)
    confidences: Mapping[TrainedModel, Confidence] = field(default_factory=dict)
    """Of those that are served; none where no validation utterance has a transcript."""
    content: bytes = b""
    """Of decoder.lm; it is that of all decoders."""

    def save(self, trained: TrainedModel, folder: Path) -> Decoder | None:
        """Write a model's decoder and confidence into a folder; return the decoder, if any."""
        decoder, confidence = self.decoders.get(trained), self.confidences.get(trained)
        if decoder is not None:
            folder.mkdir(exist_ok=True)
            save(self.content, folder)
            decoder.settings.save(folder)
        if confidence is not None:
            folder.mkdir(exist_ok=True)
            confidence.save(folder)
        return decoder


def search(
    data: PreparedData,
    rows: pd.DataFrame,
    recognisers: Mapping[TrainedModel, Teacher],
    language_model: LanguageModelParams | None,
    learnt: Learnt | None,
) -> Searches:
    """Return what models hear with the decoder; those that give no frames are left out.

    A teacher whose texts were searched for in its own way is measured in that way.

    Args:
        data: prepared data.
        rows: its utterances to decode.
        recognisers: the models.
        language_model: settings of the teacher's own search; None: there is none.
        learnt: what students are served with; None: best paths.

    Raises:
        CorpusError: no validation utterance has a word.
    """
    found: dict[TrainedModel, Searched] = {}
    decoders: dict[TrainedModel, Decoder] = {}
    confidences: dict[TrainedModel, Confidence] = {}
    asked = {one: model for one, model in recognisers.items() if model.gives_frames}
    if language_model is not None and language_model.for_teacher:
        teacher = {one: asked.pop(one) for one in list(asked) if one.seed is None}
        theirs = decode_with_language_model(data, rows, teacher, language_model)
        found |= {one: _in_its_way(decoded) for one, decoded in theirs.items()}
    unit = data.unit_of("valid")
    if learnt is None:
        asked = {one: model for one, model in asked.items() if one.seed is not None}
        if not data.references("valid")["text"].str.strip().any():
            return Searches(found)
    valid = tuning_rows(data)
    for one, model in asked.items():
        items, references = log_probs_of(model, data, valid), list(valid["text"])
        decoder = None
        if learnt is not None:
            decoder = tune(learnt, model.vocabulary, items, references, unit)
            logger.info("%s", describe(str(one), decoder, unit))
            texts = texts_of(decoder, log_probs_of(model, data, rows))
            found[one] = Searched(texts, _tuned(decoder, len(learnt.content)))
            decoders[one] = decoder
        if one.seed is None or unit is Unit.PHRASE:  # phrases do not say which words are right
            continue
        fitted = fit_confidence(items, references, model.vocabulary, decoder, unit)
        if fitted is not None:
            confidences[one] = fitted
            error, words = 100 * fitted.expected_error, fitted.num_words
            logger.info("confidence of %s: calibration error %.1f %%, %d words", one, error, words)
    return Searches(found, decoders, confidences, b"" if learnt is None else learnt.content)


def _in_its_way(decoded: Decoded) -> Searched:
    tuned = decoded.tuned
    return Searched(
        decoded.texts,
        TunedSearch(
            **asdict(tuned.settings),
            valid_wer=tuned.valid_wer,
            valid_wer_greedy=tuned.valid_wer_greedy,
        ),
    )


def _tuned(decoder: Decoder, num_bytes: int) -> TunedSearch:
    settings = decoder.settings
    assert settings.valid_rate is not None and settings.valid_rate_greedy is not None
    return TunedSearch(
        **asdict(settings.weights),
        valid_wer=settings.valid_rate,
        valid_wer_greedy=settings.valid_rate_greedy,
        bytes=num_bytes,
    )


def with_searched(
    predictions: pd.DataFrame,
    trained: Sequence[TrainedModel],
    found: Mapping[TrainedModel, Searched],
    unit: Unit = Unit.WORD,
) -> pd.DataFrame:
    """Return the predictions with `hypothesis_lm` and `word_errors_lm`, empty of other models.

    Args:
        predictions: of `predict`: one row per model, seed and utterance.
        trained: the models, as they were given to `predict`.
        found: what some of them heard in the same utterances when it was searched for.
        unit: what errors are counted in.
    """
    nothing = [None] * (len(predictions) // len(trained))
    texts = [text for one in trained for text in (found[one].texts if one in found else nothing)]
    return with_texts(predictions, texts, unit)


def with_texts(
    predictions: pd.DataFrame, texts: Sequence[str | None], unit: Unit = Unit.WORD
) -> pd.DataFrame:
    """Return predictions with the texts that a search found, and their errors."""
    errors = [
        None if text is None else count_text_errors(reference, text, unit).errors
        for reference, text in zip(predictions["text"], texts, strict=True)
    ]
    return predictions.assign(
        hypothesis_lm=pd.Series(texts, dtype="object", index=predictions.index),
        word_errors_lm=pd.Series(errors, dtype="Int64", index=predictions.index),
    )
