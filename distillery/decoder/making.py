"""From texts to a decoder whose weights suit a student: n-grams, pruned and packed, and the search
for the weights on the validation split."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from distillery.data.manifest import PreparedData
from distillery.data.scoring import Counts, count_text_errors
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.decoder.decoder import Decoder, DecoderSettings, texts_of
from distillery.decoder.grammar import SearchWeights
from distillery.decoder.pruning import history_counts, prune
from distillery.decoder.text_files import FILES_SETTING, LEXICON_SETTING, read_texts
from distillery.decoder.trie import HotWord
from distillery.decoder.word_model import WordModel, pack
from distillery.errors import CorpusError, ModelError
from distillery.language_model.ngrams import NGramModel, estimate
from distillery.models.decoding import greedy_text
from distillery.params.decoder import DecoderParams

MAX_TUNING_SECONDS = 1800.0
"""Validation audio on which weights are chosen: they change little with more of it."""
PRUNING_FACTOR = 4.0
FIRST_THRESHOLD = 1e-8
LARGEST_THRESHOLD = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learnt:
    """The n-grams and words that all students of a run are served with."""

    content: bytes
    """Of decoder.lm."""
    params: DecoderParams
    hot_words: tuple[HotWord, ...]

    @property
    def model(self) -> WordModel:
        """The n-grams, read from the content as a served student reads them."""
        return WordModel.from_bytes(self.content)


def learn(root: Path, data: PreparedData, texts: Sequence[str], params: DecoderParams) -> Learnt:
    """Return n-grams and words of the sources that the settings name.

    Args:
        root: the workspace, where the paths of text files begin.
        data: prepared data.
        texts: transcripts, or what the teacher wrote, as `learns_from` says.
        params: the settings.

    Raises:
        CorpusError: a text file cannot be used, or there is no text at all.
        ModelError: the words alone are larger than max_bytes, or a hot word cannot be written.
    """
    source = params.language_model
    everything = [*texts, *read_texts(root, source.files, FILES_SETTING, data)]
    unit = Unit.CHARACTER if data.unit.spells_characters else Unit.WORD
    listed: set[str] = set()
    if unit is Unit.WORD:
        lines = read_texts(root, params.lexicon.files, LEXICON_SETTING, data)
        listed = {word for line in lines for word in line.split()}
    if not any(everything):
        raise CorpusError(
            "register.decoder.language_model: no text holds a word, expected some; name text files "
            "(files), or set register.decoder to null"
        )
    model = estimate(everything, source.order, unit)
    content = _fitting(model, everything, listed, unit, params)
    hot_words = tuple(
        HotWord.written(hot.text, hot.weight, data.vocabulary) for hot in params.hot_words
    )
    return Learnt(content, params, hot_words)


def _fitting(
    model: NGramModel, texts: Sequence[str], listed: set[str], unit: Unit, params: DecoderParams
) -> bytes:
    """Return the file of a model, pruned until it is small enough."""
    source = params.language_model
    counts = history_counts(texts, source.order, unit)
    threshold = source.prune
    while True:
        pruned = prune(model, counts, threshold)
        content = pack(pruned, listed, unit)
        if len(content) <= source.max_bytes:
            break
        if threshold > LARGEST_THRESHOLD:
            raise ModelError(
                f"register.decoder.language_model.max_bytes is {source.max_bytes}, but the "
                f"{len(pruned.words) + len(listed)} words alone take {len(content)} bytes; raise "
                "it, or take fewer texts"
            )
        threshold = max(threshold, FIRST_THRESHOLD) * PRUNING_FACTOR
    logger.info(
        "decoder: %d words, %d of %d n-grams, pruned at %.1g: %d bytes",
        len({*pruned.words, *listed}),
        len(pruned.probabilities),
        len(model.probabilities),
        threshold,
        len(content),
    )
    return content


def tuning_rows(data: PreparedData) -> pd.DataFrame:
    """Return the validation utterances on which weights are chosen.

    Raises:
        CorpusError: none holds a word.
    """
    rows = data.references("valid")
    if not rows["text"].str.strip().any():
        raise CorpusError(
            "register.decoder: no validation utterance has a transcript with a word, but its "
            "weights are chosen there; add some, or set register.decoder to null"
        )
    order = rows["audio_key"].sort_values(kind="stable").index  # as good as at random
    chosen = rows["duration_seconds"].loc[order].cumsum() <= MAX_TUNING_SECONDS
    chosen.iloc[0] = True
    return rows[chosen.sort_index().to_numpy()].reset_index(drop=True)


def tune(
    learnt: Learnt,
    vocabulary: Vocabulary,
    items: Sequence[np.ndarray],
    references: Sequence[str],
    unit: Unit,
) -> Decoder:
    """Return a decoder with the weights of the lowest error rate, found one after the other.

    All of one weight's values are tried beside the best of the others, until none gets better. Of
    equals the smallest weight wins, and scores that are nearer to zero.

    Args:
        learnt: n-grams and words.
        vocabulary: the tokens.
        items: log-probabilities `(frames, vocab)` of each utterance, one at least.
        references: their transcripts.
        unit: what errors are counted in.
    """
    params = learnt.params
    start = SearchWeights(
        weight=sorted(set(params.weights))[len(set(params.weights)) // 2],
        word_score=min(params.word_scores, key=abs),
        unknown_score=(
            min(params.unknown_scores, key=abs) if params.lexicon.unknown_words else None
        ),
        beam_size=params.beam_size,
        beam_threshold=params.beam_threshold,
    )
    decoder = Decoder(learnt.model, vocabulary, DecoderSettings(SearchWeights(), learnt.hot_words))

    @cache
    def rate(weights: SearchWeights) -> float:
        return _rate(references, texts_of(decoder.with_weights(weights), items), unit)

    best = _descend(start, params, rate)
    greedy = _rate(references, [greedy_text(item, vocabulary) for item in items], unit)
    settings = DecoderSettings(best, learnt.hot_words, rate(best), greedy)
    return Decoder(decoder.model, vocabulary, settings)


def _descend(
    start: SearchWeights, params: DecoderParams, rate: Callable[[SearchWeights], float]
) -> SearchWeights:
    """Return the weights at which no other value of one of them is better."""
    best = start
    while True:
        before = best
        for number in range(len(_choices(best, params))):
            best = min(_choices(best, params)[number], key=rate)  # the first of several
        if best == before or rate(best) >= rate(before):
            return best


def _choices(weights: SearchWeights, params: DecoderParams) -> list[list[SearchWeights]]:
    """Return what is tried of each weight beside the others, preferred ones first."""
    word_scores = sorted(set(params.word_scores), key=abs)
    unknown_scores = sorted(set(params.unknown_scores), key=abs)
    choices = [
        [replace(weights, weight=value) for value in sorted(set(params.weights))],
        [replace(weights, word_score=value) for value in word_scores],
    ]
    if params.lexicon.unknown_words:
        choices.append([replace(weights, unknown_score=value) for value in unknown_scores])
    return choices


def _rate(references: Sequence[str], texts: Sequence[str], unit: Unit) -> float:
    pairs = zip(references, texts, strict=True)
    counts = (count_text_errors(reference, text, unit) for reference, text in pairs)
    return sum(counts, Counts(0, 0, 0, 0)).rate


def describe(name: str, decoder: Decoder, unit: Unit) -> str:
    """Return what was chosen for a model, in a line for a person."""
    weights, settings = decoder.settings.weights, decoder.settings
    unknown = "no" if weights.unknown_score is None else f"{weights.unknown_score:g}"
    return (
        f"decoder for {name}: weight {weights.weight:g}, word score {weights.word_score:g}, "
        f"unknown words {unknown}; validation {unit.rate} {100 * (settings.valid_rate or 0):.1f} % "
        f"with it, {100 * (settings.valid_rate_greedy or 0):.1f} % without"
    )
