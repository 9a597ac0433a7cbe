"""From what a student's network says to its text with times, confidence and other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distillery.data.text import Vocabulary
from distillery.decoder.confidence import Confidence
from distillery.decoder.decoder import Decoder
from distillery.decoder.trie import HotWord
from distillery.decoder.words import Alternative, Transcript, heard_words
from distillery.models.decoding import greedy_tokens
from distillery.serve.texts import letters_alone


@dataclass(frozen=True)
class Scribe:
    """What turns a student's log-probabilities into transcripts."""

    vocabulary: Vocabulary
    frame_shift_seconds: float
    decoder: Decoder | None
    """What its texts are searched with; None: they are best paths."""
    confidence: Confidence | None

    def transcript(
        self, log_probs: np.ndarray, hot_words: Sequence[HotWord] = (), num_hypotheses: int = 0
    ) -> Transcript:
        """Return the text that `text_of` gives, and more.

        Args:
            log_probs: `(frames, vocab)` of the utterance.
            hot_words: more than the decoder's own.
            num_hypotheses: texts of `n_best`; other texts than that of a best path are found by a
                beam search that knows no words.

        Raises:
            ModelError: a hot word cannot be written with the tokens.
        """
        search, wanted = self.decoder, max(1, num_hypotheses)
        if search is None and (hot_words or num_hypotheses):
            search = letters_alone(self.vocabulary)
        found = [] if search is None else search.n_best(log_probs, wanted, hot_words)
        is_searched = self.decoder is not None or hot_words
        tokens = found[0].tokens if is_searched else greedy_tokens(log_probs)
        text = self.vocabulary.decode(tokens)
        words = heard_words(log_probs, tokens, self.vocabulary)
        ranked = {item.text: Alternative(item.text, item.score) for item in found}
        # A best path that the beams have lost: ln P of that path alone.
        first = ranked.pop(text, None) or Alternative(text, float(log_probs.max(axis=1).sum()))
        return Transcript(
            text,
            tuple(word.word(self.frame_shift_seconds, self.confidence) for word in words),
            (first, *ranked.values())[:num_hypotheses],
        )
