"""A decoder as it is shipped beside a student: decoder.lm and decoder.json, no PyTorch.

decoder.lm    words and n-grams, see word_model.py
decoder.json  the weights that the validation split chose for this student, and hot words
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.decoder.grammar import Grammar, SearchWeights
from distillery.decoder.search import Hypothesis, Search
from distillery.decoder.trie import HotWord
from distillery.decoder.word_model import WORD_MODEL_FILE, WordModel, pack
from distillery.errors import ModelError
from distillery.files import digest_of_file, write_json
from distillery.language_model.ngrams import UNKNOWN, NGramModel

DECODER_FILE = "decoder.json"
DECODER_FILES = (WORD_MODEL_FILE, DECODER_FILE)
MAX_GRAMMARS = 8
"""Sets of hot words that are kept ready."""


@dataclass(frozen=True)
class DecoderSettings:
    """What decoder.json holds."""

    weights: SearchWeights
    hot_words: tuple[HotWord, ...] = ()
    """Those of the settings; a request may bring more."""
    valid_rate: float | None = None
    """Error rate on the validation split, as a fraction."""
    valid_rate_greedy: float | None = None
    """The same of the best path."""

    def save(self, folder: Path) -> None:
        """Write decoder.json."""
        write_json(folder / DECODER_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> DecoderSettings:
        """Read decoder.json.

        Raises:
            ModelError: it is missing, or not what this Distillery writes.
        """
        path = folder / DECODER_FILE
        try:
            content = json.loads(path.read_text("utf-8"))
            weights = SearchWeights(**content.pop("weights"))
            hot_words = tuple(HotWord(**item) for item in content.pop("hot_words"))
            return cls(weights, hot_words, **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path}: cannot be used ({error}); register the model again"
            ) from None


@dataclass
class Decoder:
    """Log-probabilities to texts, with n-grams, a lexicon and hot words."""

    model: WordModel
    vocabulary: Vocabulary
    settings: DecoderSettings
    files: tuple[Path, ...] = ()
    """Where it was read from."""
    _grammars: dict[tuple[HotWord, ...], Grammar] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> Decoder:
        """Read a decoder that lies beside a student.

        Raises:
            ModelError: a file is missing or damaged.
        """
        settings = DecoderSettings.load(folder)
        model = WordModel.load(folder / WORD_MODEL_FILE)
        files = tuple(folder / name for name in DECODER_FILES)
        return cls(model, vocabulary, settings, files)

    @classmethod
    def find(cls, folder: Path, vocabulary: Vocabulary) -> Decoder | None:
        """Return the decoder in a folder; None where its student is served by best paths.

        Raises:
            ModelError: a file of it is missing or damaged.
        """
        if not any((folder / name).exists() for name in DECODER_FILES):
            return None
        return cls.load(folder, vocabulary)

    @classmethod
    def of_letters(cls, vocabulary: Vocabulary) -> Decoder:
        """Return a decoder that knows no word: for hot words where a student has no decoder."""
        model = NGramModel(1, {(UNKNOWN,): 1.0}, {})
        weights = SearchWeights(weight=0.0, unknown_score=0.0)
        empty = WordModel.from_bytes(pack(model, (), Unit.WORD))
        return cls(empty, vocabulary, DecoderSettings(weights))

    @property
    def num_bytes(self) -> int:
        """Size of its files."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 that tells it from others by what decides its texts; of the files."""
        return hashlib.sha256("".join(map(digest_of_file, self.files)).encode()).hexdigest()

    def with_weights(self, weights: SearchWeights) -> Decoder:
        """Return the same words with other weights."""
        return Decoder(self.model, self.vocabulary, replace(self.settings, weights=weights))

    def begin(self, hot_words: Iterable[HotWord] = ()) -> Search:
        """Begin an utterance.

        Args:
            hot_words: more than the settings have; of equal texts these count.

        Raises:
            ModelError: one cannot be written with the student's tokens.
        """
        chosen = {hot.text: hot for hot in (*self.settings.hot_words, *hot_words)}
        key = tuple(chosen.values())
        grammar = self._grammars.get(key)
        if grammar is None:
            # Requests to a server run in threads: another one may have dropped the same.
            for oldest in list(self._grammars)[: 1 - MAX_GRAMMARS]:
                self._grammars.pop(oldest, None)
            grammar = Grammar(self.model, self.vocabulary, self.settings.weights, key)
            self._grammars[key] = grammar
        return Search(grammar)

    def text(self, log_probs: np.ndarray, hot_words: Iterable[HotWord] = ()) -> str:
        """Return the best text for log-probabilities `(frames, vocab)`."""
        return self.n_best(log_probs, 1, hot_words)[0].text

    def n_best(
        self, log_probs: np.ndarray, num_hypotheses: int, hot_words: Iterable[HotWord] = ()
    ) -> list[Hypothesis]:
        """Return up to so many different texts for log-probabilities `(frames, vocab)`."""
        return self.in_windows([log_probs], num_hypotheses, hot_words)

    def in_windows(
        self,
        windows: Iterable[np.ndarray],
        num_hypotheses: int = 1,
        hot_words: Iterable[HotWord] = (),
    ) -> list[Hypothesis]:
        """Return the same for an utterance whose frames come in pieces."""
        search = self.begin(hot_words)
        for log_probs in windows:
            search.push(log_probs)
        return search.finish(num_hypotheses)


def texts_of(decoder: Decoder, items: Sequence[np.ndarray]) -> list[str]:
    """Return the best text of each utterance's log-probabilities `(frames, vocab)`."""
    return [decoder.text(item) for item in items]
