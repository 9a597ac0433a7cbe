"""CTC beam search over the words of a lexicon with an n-gram model, and the choice of its weights.

A text W scores, for the log-probabilities X of an acoustic model,

    s(W) = ln P(W|X) + weight · ln P(W) + word_score · |W|

with CTC's P(W|X), summed over the alignments that the beams keep, and the n-gram model's P(W).
A word that the lexicon lacks cannot be written. Weight and word score are those of the lowest word
error rate on the validation split.

A lexicon that spells without word boundaries is one of characters, which are what is counted then.
The search needs no lexicon for them, and must have none: a word of one token could last for one
frame only. It knows no word score, which orders the texts that it found instead.

Sources: Graves and Jaitly (2014), "Towards End-To-End Speech Recognition with Recurrent Neural
Networks", for the score; Kahn et al. (2022), "Flashlight", arXiv 2201.12465, for the search.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distillery.data.scoring import Counts, count_text_errors
from distillery.data.text import SPACE, Vocabulary
from distillery.data.units import Unit
from distillery.errors import ModelError
from distillery.language_model.ngrams import ARPA_FILE, LEXICON_FILE, parts_of
from distillery.language_model.settings import SearchSettings, Tuned, read_tuned
from distillery.models.decoding import BLANK_INDEX, greedy_text

IMPOSSIBLE = -1e4
"""Nats; far below every beam, and unlike -inf harmless in sums."""
SECONDS_BEFORE_BAR = 3.0


class LanguageModelDecoder:
    """Log-probabilities to texts of known words."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, settings: SearchSettings) -> None:
        """Read lm.arpa and lexicon.txt.

        Args:
            folder: where they lie; `use` reads the lexicon again.
            vocabulary: tokens of the log-probabilities to come.
            settings: the search's, as decoder.json has them.

        Raises:
            ModelError: a file is missing or damaged, or spells with other tokens.
        """
        if not (folder / ARPA_FILE).exists():
            raise ModelError(f"{folder / ARPA_FILE}: no such file; run make cache")
        self._lexicon = _checked_lexicon(folder / LEXICON_FILE, vocabulary)
        self._tokens = list(vocabulary.tokens)
        self._boundary = vocabulary.tokens.index(SPACE)
        self._vocabulary = vocabulary
        self.unit = _unit_of(self._lexicon)
        self._model: Any = str(folder / ARPA_FILE)
        try:
            with _quiet():
                self.use(settings)
        except RuntimeError as error:
            raise ModelError(
                f"{folder / ARPA_FILE}: not a language model that KenLM reads: "
                f"{str(error).splitlines()[-1]}; run make cache"
            ) from None

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> LanguageModelDecoder:
        """Read a decoder that was tuned and saved.

        Raises:
            ModelError: a file is missing or damaged, or spells with other tokens.
        """
        return cls(folder, vocabulary, read_tuned(folder).settings)

    def use(self, settings: SearchSettings) -> None:
        """Search with other settings from now on; the language model is not read again."""
        from torchaudio.models.decoder import ctc_decoder

        self.settings = settings
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as words:
            # Where tokens are words, the search takes their numbers for those of words, too.
            words.write("".join(f"{token}\n" for token in self._tokens))
            words.flush()
            by_words = self.unit is Unit.WORD
            built = ctc_decoder(
                str(self._lexicon) if by_words else None,
                self._tokens,
                self._model,
                lm_dict=None if by_words else words.name,
                beam_size=settings.beam_size,
                beam_threshold=settings.beam_threshold,
                lm_weight=settings.weight * math.log(10),  # KenLM's logarithms are decimal
                word_score=settings.word_score,
                log_add=True,
                blank_token=self._tokens[BLANK_INDEX],
                sil_token=SPACE,
            )
        # Its call makes tensors of tokens and times for every beam, which takes as long as half
        # the search; texts need neither.
        self._search, self._model = built.decoder, built.lm
        self._words = built.word_dict

    def n_best(self, items: Sequence[np.ndarray], num_hypotheses: int = 1) -> list[list[str]]:
        """Return up to so many different texts of each utterance, best first.

        Args:
            items: log-probabilities `(frames, vocab)` of each utterance.
            num_hypotheses: texts wanted.
        """
        found = []
        for item in items:
            if self.unit is Unit.CHARACTER:
                found.append(self._texts_of_characters(item)[:num_hypotheses])
                continue
            # Spellings end in a word boundary, which the last word's audio need not: give it one.
            frames = np.full((len(item) + 1, len(self._tokens)), IMPOSSIBLE, np.float32)
            frames[:-1] = np.maximum(item, IMPOSSIBLE)
            frames[-1, self._boundary] = 0.0
            texts: dict[str, None] = {}
            for result in self._search.decode(frames.ctypes.data, *frames.shape):
                words = (self._words.get_entry(index) for index in result.words if index >= 0)
                texts[" ".join(words)] = None
                if len(texts) == num_hypotheses:
                    break
            found.append(list(texts))
        return found

    def _texts_of_characters(self, item: np.ndarray) -> list[str]:
        """Return the different texts of an utterance, best first.

        Args:
            item: its log-probabilities `(frames, vocab)`.
        """
        if not len(item):
            return [""]
        frames = np.maximum(item, IMPOSSIBLE).astype(np.float32, order="C")
        scores: dict[str, float] = {}
        for result in self._search.decode(frames.ctypes.data, *frames.shape):
            tokens = [token for token, _ in itertools.groupby(result.tokens) if token >= 0]
            text = self._vocabulary.decode(tokens)
            score = result.score + self.settings.word_score * len(self.unit.parts(text))
            scores[text] = max(score, scores.get(text, -math.inf))
        return sorted(scores, key=lambda text: -scores[text])

    def text_score(self, text: str) -> float:
        """Return what a text of known words scores before anything is heard, in nats."""
        state, total = self._model.start(False), 0.0
        for word in parts_of(text, self.unit):
            state, score = self._model.score(state, self._words.get_index(word))
            total += float(score)
        total += float(self._model.finish(state)[1])
        return self.settings.weight * math.log(10) * total + self.settings.word_score * len(
            self.unit.parts(text)
        )


def tune(
    decoder: LanguageModelDecoder,
    items: Sequence[np.ndarray],
    references: Sequence[str],
    vocabulary: Vocabulary,
    weights: Sequence[float],
    word_scores: Sequence[float],
    unit: Unit | None = None,
) -> Tuned:
    """Try all pairs of weight and word score, and leave the decoder with the best.

    Of pairs with equally many word errors the one with the smaller weight wins, then the one whose
    word score is nearer to zero.

    Args:
        decoder: what to tune.
        items: log-probabilities `(frames, vocab)` of each utterance, one at least.
        references: their transcripts.
        vocabulary: the tokens.
        weights: factors of ln P(W) to try.
        word_scores: nats per word to try.
        unit: what errors are counted in; None: what the decoder's words are.
    """
    pairs = sorted(
        itertools.product(set(weights), set(word_scores)),
        key=lambda pair: (pair[0], abs(pair[1]), pair[1]),
    )
    tried: list[Tuned] = []
    best_paths = [greedy_text(item, vocabulary) for item in items]
    counted = unit or decoder.unit
    greedy = _rate(references, best_paths, counted)
    for pair in tqdm(pairs, desc="language model", unit="pair", delay=SECONDS_BEFORE_BAR):
        decoder.use(replace(decoder.settings, weight=pair[0], word_score=pair[1]))
        texts = [found[0] for found in decoder.n_best(items)]
        tried.append(Tuned(decoder.settings, _rate(references, texts, counted), greedy))
    best = min(tried, key=lambda tuned: tuned.valid_wer)  # the first of several
    decoder.use(best.settings)
    return best


def _rate(references: Sequence[str], texts: Sequence[str], unit: Unit) -> float:
    pairs = zip(references, texts, strict=True)
    counts = (count_text_errors(reference, text, unit) for reference, text in pairs)
    return sum(counts, Counts(0, 0, 0, 0)).rate


def _checked_lexicon(path: Path, vocabulary: Vocabulary) -> Path:
    """Return the path of a lexicon that spells with these tokens.

    Raises:
        ModelError: the file is missing or empty, or a line is no word with its spelling.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; run make cache") from None
    if not lines:
        raise ModelError(f"{path}: holds no word; run make cache")
    for number, line in enumerate(lines, 1):
        _, *spelling = line.split() or [""]
        if not spelling:
            raise ModelError(
                f"{path}: line {number}: {line[:60]!r} has no spelling, expected a word and its "
                "tokens; run make cache"
            )
        unknown = [token for token in spelling if token not in vocabulary.tokens]
        if unknown:
            raise ModelError(
                f"{path}: line {number}: {line[:60]!r} spells with {unknown[0]!r}, which is none "
                f"of the {len(vocabulary)} tokens; run make cache"
            )
    return path


def _unit_of(lexicon: Path) -> Unit:
    """Return what a lexicon, already checked, has as its words."""
    with open(lexicon, encoding="utf-8") as lines:
        return Unit.WORD if next(lines).split()[-1] == SPACE else Unit.CHARACTER


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what compiled code writes to the standard error stream: KenLM draws a bar there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
