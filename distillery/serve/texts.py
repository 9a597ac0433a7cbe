"""From what a student's network says to its text: its decoder's, or that of the best path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from distillery.data.text import Vocabulary
from distillery.decoder.decoder import Decoder
from distillery.decoder.trie import HotWord
from distillery.errors import ModelError
from distillery.params.decoder import HotWordParams
from distillery.serve.long_audio import long_text

WEIGHT_SIGN = "="
"""Between a hot word and its weight; no text holds one."""
MAX_WEIGHT = 100.0
MAX_SHOWN = 40
"""Characters of a hot word that an error repeats."""


class Listener(Protocol):
    """What has a decoder, and tells its weights from others'."""

    @property
    def decoder(self) -> Decoder | None:
        """What its texts are searched with; None: they are best paths."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 that tells the network from all others."""


def text_of(
    windows: Iterable[np.ndarray],
    vocabulary: Vocabulary,
    decoder: Decoder | None = None,
    hot_words: Sequence[HotWord] = (),
) -> str:
    """Return the text of an utterance.

    Args:
        windows: log-probabilities `(frames, vocab)`, in one piece or several.
        vocabulary: the tokens.
        decoder: what searches the text; None: the best path, or where there are hot words a search
            with these alone.
        hot_words: of this request.

    Raises:
        ModelError: a hot word cannot be written with the tokens.
    """
    if decoder is None and hot_words:
        decoder = letters_alone(vocabulary)
    if decoder is None:
        return long_text(windows, vocabulary)
    return decoder.in_windows(windows, hot_words=hot_words)[0].text


@lru_cache(maxsize=4)
def letters_alone(vocabulary: Vocabulary) -> Decoder:
    """Return the decoder that knows no word, for hot words of students without a decoder."""
    return Decoder.of_letters(vocabulary)


def parse_hot_words(written: Iterable[str], vocabulary: Vocabulary) -> tuple[HotWord, ...]:
    """Return hot words as a request writes them: `TEXT` or `TEXT=WEIGHT`.

    Raises:
        ModelError: one holds no word, letters that no token stands for, or a weight that is no
            number from 0 to 100.
    """
    found = []
    for item in written:
        shown = repr(item) if len(item) <= MAX_SHOWN else repr(item[:MAX_SHOWN]) + "…"
        text, sign, weight = item.rpartition(WEIGHT_SIGN)
        if not sign:
            text, weight = item, str(HotWordParams.model_fields["weight"].default)
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not 0 <= value <= MAX_WEIGHT:
            raise ModelError(
                f"hot word {shown}: weight {weight[:MAX_SHOWN]!r}, expected a number from 0 to "
                f"{MAX_WEIGHT:g} behind {WEIGHT_SIGN!r}, such as 6"
            )
        hot = HotWord.written(text, value, vocabulary)
        if not hot.text:
            raise ModelError(f"hot word {shown}: holds no word, expected one or more")
        if unknown := sorted(vocabulary.unknown(hot.text))[:MAX_SHOWN]:
            raise ModelError(
                f"hot word {shown}: the model has no token for {unknown}; write it as "
                "transcripts do, numbers in words"
            )
        found.append(hot)
    return tuple(found)


def digest_of_texts(listener: Listener, hot_words: Sequence[HotWord] = ()) -> str:
    """Return the SHA-256 that tells a student's texts from others': weights, decoder, hot words.

    Without decoder and hot words it is that of the weights.
    """
    decoder = listener.decoder
    if decoder is None and not hot_words:
        return listener.weights_digest
    parts = [listener.weights_digest, "" if decoder is None else decoder.digest]
    parts += [f"{hot.text}{WEIGHT_SIGN}{hot.weight!r}" for hot in hot_words]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
