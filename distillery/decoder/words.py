"""A text word by word: when each was heard, how sure that is, and what else may have been said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from distillery.data.text import SPACE, Vocabulary
from distillery.data.units import Unit, unit_of
from distillery.decoder.alignment import align
from distillery.decoder.confidence import Confidence, evidence_of
from distillery.files import Json

DIGITS = 3
"""Of seconds, confidences and scores where they are written."""


@dataclass(frozen=True)
class Word:
    """A word and its place; in scripts without spaces, a character."""

    text: str
    start: float
    """Seconds from the beginning of the recording."""
    end: float
    confidence: float | None
    """Probability that it is right; None where the student has no confidence.json."""

    @property
    def entries(self) -> Json:
        """What is written of it."""
        sure = None if self.confidence is None else round(self.confidence, DIGITS)
        start, end = round(self.start, DIGITS), round(self.end, DIGITS)
        return {"text": self.text, "start": start, "end": end, "confidence": sure}


@dataclass(frozen=True)
class Alternative:
    """A text that may have been spoken."""

    text: str
    score: float
    """In nats: what the search ranks texts by; of students without a decoder ln P(text given
    audio)."""

    @property
    def entries(self) -> Json:
        """What is written of it."""
        return {"text": self.text, "score": round(self.score, DIGITS)}


@dataclass(frozen=True)
class Transcript:
    """A text with all that is known of it."""

    text: str
    words: tuple[Word, ...]
    """Of the text, in its order."""
    n_best: tuple[Alternative, ...] = ()
    """As many as were asked for and found, the text itself first."""

    def later(self, seconds: float) -> Transcript:
        """Return it with all times later by so much: of a segment, in its recording."""
        moved = (replace(w, start=w.start + seconds, end=w.end + seconds) for w in self.words)
        return replace(self, words=tuple(moved))

    @property
    def entries(self) -> Json:
        """What is written of it; `n_best` where it was asked for."""
        found = {"text": self.text, "words": [word.entries for word in self.words]}
        return found | ({"n_best": [item.entries for item in self.n_best]} if self.n_best else {})


def joined(parts: Sequence[Transcript], vocabulary: Vocabulary) -> Transcript:
    """Return the transcript of a recording from those of its segments, in order."""
    if len(parts) == 1:
        return parts[0]
    text = unit_of_tokens(vocabulary).joined(part.text for part in parts if part.text)
    return Transcript(text, tuple(word for part in parts for word in part.words))


@dataclass(frozen=True)
class HeardWord:
    """A word as the frames have it."""

    text: str
    first: int
    """Frame of its first token."""
    behind: int
    """The frame behind its last token."""
    evidence: float
    """As `distillery.decoder.confidence` says."""

    def word(self, frame_shift_seconds: float, confidence: Confidence | None) -> Word:
        """Return it with its times."""
        sure = None if confidence is None else confidence.of(self.evidence)
        start, end = self.first * frame_shift_seconds, self.behind * frame_shift_seconds
        return Word(self.text, start, end, sure)


def heard_words(
    log_probs: np.ndarray, tokens: Sequence[int], vocabulary: Vocabulary
) -> list[HeardWord]:
    """Return the words of a text where the best alignment has them.

    In scripts without spaces these are characters; those of one token share its frames.

    Args:
        log_probs: `(frames, vocab)` of the utterance, natural logarithms.
        tokens: what was recognised, as a best path or a `Hypothesis` has it.
        vocabulary: what they mean.

    Raises:
        ModelError: there are fewer frames than the tokens need.
    """
    tokens = vocabulary.tidy(tokens)
    spans = align(log_probs, tokens)
    by_words = not unit_of_tokens(vocabulary).spells_characters
    words: list[tuple[str, list[int]]] = []
    is_open = False
    for place, token in enumerate(tokens):
        piece = vocabulary.tokens[token]
        letters = piece.removeprefix(SPACE)
        if by_words and is_open and letters == piece:
            text, places = words[-1]
            words[-1] = (text + letters, [*places, place])
        elif by_words:
            words += [(letters, [place])] if letters else []
        else:
            words += [(letter, [place]) for letter in letters]
        is_open = bool(letters)
    found = []
    for text, places in words:
        sure = [float(log_probs[slice(*spans[at]), tokens[at]].max()) for at in places]
        first, behind = spans[places[0]][0], spans[places[-1]][1]
        found.append(HeardWord(text, first, behind, evidence_of(sure)))
    return found


@lru_cache(maxsize=4)
def unit_of_tokens(vocabulary: Vocabulary) -> Unit:
    """Return whether texts of such tokens are words, or characters without spaces."""
    return unit_of(Counter(vocabulary.characters))
