"""Token indices of many texts in one array; as Python's lists they take ten times the memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from distillery.data.text import Vocabulary

Item = Iterable[tuple[Sequence[int], float]]
"""Tokens and weight of each hypothesis of an utterance."""


class TokenLists:
    """Lists of token indices, or None in places; read like a list of them."""

    def __init__(self, items: Iterable[Sequence[int] | None]) -> None:
        """Keep lists, which are read once."""
        self._tokens = array("H")
        self._ends = array("q", [0])
        self._is_known = bytearray()
        for item in items:
            self._is_known.append(item is not None)
            self._add(item or ())
            self._ends.append(len(self._tokens))

    def _add(self, tokens: Sequence[int]) -> None:
        try:
            self._tokens.fromlist(list(tokens))
        except OverflowError:  # a table of more than 65,536 tokens
            self._tokens = array("L", self._tokens)
            self._tokens.fromlist(list(tokens))

    def __len__(self) -> int:
        return len(self._is_known)

    def __getitem__(self, index: int) -> list[int] | None:
        if not self._is_known[index]:
            return None
        place = range(len(self))[index]
        return self._tokens[self._ends[place] : self._ends[place + 1]].tolist()

    def __iter__(self) -> Iterator[list[int] | None]:
        return (self[index] for index in range(len(self)))


def transcripts(texts: pd.Series[str], vocabulary: Vocabulary) -> TokenLists:
    """Return the tokens of transcripts, None where there is none.

    Raises:
        ModelError: a character has no token.
    """
    return TokenLists(None if pd.isna(text) else vocabulary.encode(text) for text in texts)


class WeightedTexts:
    """The hypotheses of many utterances: their tokens, and how much each weighs."""

    def __init__(self, items: Iterable[Item]) -> None:
        """Keep hypotheses, which are read once."""
        self._weights = array("d")
        self._ends = array("q", [0])
        self._texts = TokenLists(self._noted(items))

    def _noted(self, items: Iterable[Item]) -> Iterator[Sequence[int]]:
        for item in items:
            for tokens, weight in item:
                self._weights.append(weight)
                yield tokens
            self._ends.append(len(self._weights))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> list[tuple[Sequence[int], float]]:
        places = range(self._ends[row], self._ends[row + 1])
        return [(self._texts[place] or [], self._weights[place]) for place in places]
