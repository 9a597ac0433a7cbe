"""From training transcripts and a recogniser to a decoder whose weights suit that recogniser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from distillery.data.lengths import in_batches_by_length
from distillery.data.manifest import PreparedData, labelled
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.language_model.decoder import LanguageModelDecoder, tune
from distillery.language_model.ngrams import ARPA_FILE, LEXICON_FILE, estimate, write_lexicon
from distillery.language_model.settings import SearchSettings, Tuned
from distillery.models.base import Teacher
from distillery.params.language_model import LanguageModelParams

BATCH_UTTERANCES = 16


def write_language_model(
    data: PreparedData,
    vocabulary: Vocabulary,
    params: LanguageModelParams,
    folder: Path,
) -> None:
    """Estimate an n-gram model of the training transcripts, and write it and its lexicon.

    Args:
        data: prepared data.
        vocabulary: tokens to spell with.
        params: settings of the language model.
        folder: receives the files.

    Raises:
        CorpusError: no transcript holds a word.
    """
    model = estimate(labelled(data, "train")["text"], params.order, data.unit)
    model.save(folder / ARPA_FILE)
    write_lexicon(model.words, vocabulary, folder / LEXICON_FILE, data.unit)


def untuned_decoder(
    folder: Path, vocabulary: Vocabulary, params: LanguageModelParams
) -> LanguageModelDecoder:
    """Return a decoder that awaits `tune_for`."""
    first = SearchSettings(
        params.weights[0], params.word_scores[0], params.beam_size, params.beam_threshold
    )
    return LanguageModelDecoder(folder, vocabulary, first)


def tune_for(
    decoder: LanguageModelDecoder,
    data: PreparedData,
    recogniser: Teacher,
    params: LanguageModelParams,
) -> Tuned:
    """Choose the decoder's weights for a recogniser, by its errors on the validation split."""
    rows = labelled(data, "valid")
    return tune(
        decoder,
        log_probs_of(recogniser, data, rows),
        list(rows["text"]),
        recogniser.vocabulary,
        params.weights,
        params.word_scores,
        data.unit_of("valid"),
    )


def log_probs_of(recogniser: Teacher, data: PreparedData, rows: pd.DataFrame) -> list[np.ndarray]:
    """Return log-probabilities `(frames, vocab)` of utterances, batches of similar lengths."""
    found: dict[int, np.ndarray] = {}
    for batch in _batches(rows):
        waveforms = [data.waveform(row) for row in rows.iloc[batch].itertuples()]
        outputs = recogniser.forward(*recogniser.extract(waveforms))
        found.update(zip(batch, outputs.items, strict=True))
    return [found[index] for index in range(len(rows))]


def _batches(rows: pd.DataFrame) -> Iterator[list[int]]:
    lengths = rows["num_samples"].to_numpy()
    order = np.argsort(lengths, kind="stable").tolist()
    return in_batches_by_length(order, lengths, max_items=BATCH_UTTERANCES)


def describe(name: str, tuned: Tuned, unit: Unit = Unit.WORD) -> list[str]:
    """Return what tuning found, in lines for a person."""
    parts = "characters" if unit.spells_characters else "words"
    settings, greedy = tuned.settings, 100 * tuned.valid_wer_greedy
    lines = [
        f"language model for {name}: weight {settings.weight:g}, word score "
        f"{settings.word_score:g}; validation {unit.rate} {100 * tuned.valid_wer:.1f} % with it, "
        f"{greedy:.1f} % without"
    ]
    if tuned.valid_wer > tuned.valid_wer_greedy:
        lines.append(
            f"the language model makes it worse: its {parts} and their order come from the "
            "training texts alone; add transcripts, or switch it off"
        )
    return lines
