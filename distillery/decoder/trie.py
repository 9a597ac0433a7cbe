"""The words of a lexicon as paths of letters, and the words and phrases that count more.

A node is a number, 0 the root. Paths are looked up by node and letter in one table, which is what
Python does fastest and holds in little memory.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        return cls(normalise(text, case_of(vocabulary), vocabulary.characters), weight)


class Trie:
    """Words spelled in letters."""

    def __init__(self, num_letters: int) -> None:
        self.num_letters = num_letters
        self.next: dict[int, int] = {}
        """Node · letters + letter → node."""
        self.word = [NONE]
        """The word that ends at each node."""
        self.best = [float("-inf")]
        """The highest score of the words behind each node, or at it."""

    def copy(self) -> Trie:
        """Return another one of the same words."""
        other = Trie(self.num_letters)
        other.next, other.word, other.best = dict(self.next), list(self.word), list(self.best)
        return other

    def add(self, spelling: Sequence[int], word: int, score: float, bonus: float = 0.0) -> None:
        """Add a word, or raise the score of one that is there.

        Args:
            spelling: its letters, by number.
            word: its number.
            score: what is promised to those who are on the way to it.
            bonus: what is promised on top: with each letter a share of it, for at once it would
                give up what does not begin like a hot word.
        """
        node, base = ROOT, score
        self.best[node] = max(self.best[node], score)
        for place, letter in enumerate(spelling, 1):
            score = base + bonus * place / len(spelling)
            key = node * self.num_letters + letter
            node = self.next.get(key, len(self.word))
            if node == len(self.word):
                self.next[key] = node
                self.word.append(NONE)
                self.best.append(score)
            elif self.best[node] < score:
                self.best[node] = score
        self.word[node] = word


PhraseState = int
"""Where in the phrases the last words are: a node of `Phrases`."""


class Phrases:
    """Hot words and phrases as paths of words, or of characters where these are the words.

    Each word of a phrase adds its share; what a phrase added is taken back when it breaks off, but
    for a shorter one that was whole.
    """

    def __init__(self, phrases: Sequence[tuple[Sequence[str], float]]) -> None:
        """Take phrases, each as its words and what the whole of it adds."""
        self._next: dict[tuple[int, str], int] = {}
        self._given = [0.0]
        """What the words up to each node have added."""
        self._kept = [0.0]
        """What of it stays whatever follows."""
        for words, weight in sorted(phrases, key=lambda phrase: len(phrase[0])):
            node = ROOT
            for place, word in enumerate(words, 1):
                after = self._next.setdefault((node, word), len(self._given))
                if after == len(self._given):
                    self._given.append(self._kept[node])
                    self._kept.append(self._kept[node])
                node = after
                share = weight * place / len(words)
                self._given[node] = max(self._given[node], share)
            self._given[node] = self._kept[node] = max(weight, self._kept[node])

    def after(self, state: PhraseState, word: str) -> tuple[float, PhraseState]:
        """Return what a word adds, in nats, and the state behind it."""
        after, added = self._next.get((state, word)), 0.0
        if after is not None:
            return self._given[after] - self._given[state], after
        if state != ROOT:
            added = self.broken(state)
            after = self._next.get((ROOT, word))
        return (added, ROOT) if after is None else (added + self._given[after], after)

    def broken(self, state: PhraseState) -> float:
        """Return what the end of the text adds: less what a phrase that is not whole had got."""
        return self._kept[state] - self._given[state]

    def share(self, word: str) -> float:
        """Return what a word adds at the beginning of a phrase."""
        after = self._next.get((ROOT, word))
        return 0.0 if after is None else self._given[after]
