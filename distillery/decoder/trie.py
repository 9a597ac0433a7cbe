"""The words of a lexicon as paths of tokens, and the words and phrases that count more.

A node is a number, 0 the root. Paths are looked up by node and token in one table, which is what
Python does fastest and holds in little memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distillery.data.text import Vocabulary, case_of, normalise

ROOT = 0
NOWHERE = -1
"""The node of a word that the lexicon does not hold."""
NONE = -1
"""The word of a node at which none ends."""


@dataclass(frozen=True)
class HotWord:
    """A word or phrase that is expected more than the language model knows."""

    text: str
    """Normalised; words that the lexicon lacks may be written, too."""
    weight: float
    """Nats that it adds to a text's score; 0 only lets it be written."""

    @classmethod
    def written(cls, text: str, weight: float, vocabulary: Vocabulary) -> HotWord:
        """Return a hot word as transcripts would write it; `Grammar` checks its letters."""
        return cls(normalise(text, case_of(vocabulary), vocabulary.tokens), weight)


class Trie:
    """Words spelled in tokens."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self.next: dict[int, int] = {}
        """Node · tokens + token → node."""
        self.word = [NONE]
        """The word that ends at each node."""
        self.best = [float("-inf")]
        """The highest score of the words behind each node, or at it."""

    def copy(self) -> Trie:
        """Return another one of the same words."""
        other = Trie(self.num_tokens)
        other.next, other.word, other.best = dict(self.next), list(self.word), list(self.best)
        return other

    def add(self, spelling: Iterable[int], word: int, score: float) -> None:
        """Add a word, or raise the score of one that is there.

        Args:
            spelling: its tokens.
            word: its number.
            score: what is promised to those who are on the way to it.
        """
        node = ROOT
        self.best[node] = max(self.best[node], score)
        for token in spelling:
            key = node * self.num_tokens + token
            node = self.next.get(key, len(self.word))
            if node == len(self.word):
                self.next[key] = node
                self.word.append(NONE)
                self.best.append(score)
            elif self.best[node] < score:
                self.best[node] = score
        self.word[node] = word


PhraseState = tuple[int, float]
"""Where in the phrases the last words are, and what was added for a phrase that is not whole."""
NO_PHRASE: PhraseState = (ROOT, 0.0)


class Phrases:
    """Hot words and phrases as paths of words, or of characters where these are the words.

    Each word of a phrase adds its share; what a phrase added is taken back when it breaks off.
    """

    def __init__(self, phrases: Sequence[tuple[Sequence[str], float]]) -> None:
        """Take phrases, each as its words and what the whole of it adds."""
        self._next: dict[tuple[int, str], int] = {}
        self._shares: list[float] = [0.0]
        self._ends: dict[int, float] = {}
        self._longer = {ROOT}
        for words, weight in phrases:
            node = ROOT
            for word in words:
                after = self._next.setdefault((node, word), len(self._shares))
                self._longer.add(node)
                if after == len(self._shares):
                    self._shares.append(0.0)
                node = after
                self._shares[node] = max(self._shares[node], weight / len(words))
            self._ends[node] = max(weight, self._ends.get(node, weight))

    def after(self, state: PhraseState, word: str) -> tuple[float, PhraseState]:
        """Return what a word adds, in nats, and the state behind it."""
        node, held = state
        after = self._next.get((node, word))
        added = 0.0
        if after is None and node != ROOT:
            added, held = -held, 0.0
            after = self._next.get((ROOT, word))
        if after is None:
            return added, NO_PHRASE
        added += self._shares[after]
        held += self._shares[after]
        if after in self._ends:
            added += self._ends[after] - held
            held = 0.0
        return added, ((after, held) if after in self._longer else NO_PHRASE)

    def broken(self, state: PhraseState) -> float:
        """Return what the end of the text adds: what a phrase that is not whole had got."""
        return -state[1]

    def share(self, word: str) -> float:
        """Return what a word adds at the beginning of a phrase."""
        after = self._next.get((ROOT, word))
        return 0.0 if after is None else self._shares[after]
