"""What texts score before anything is heard, token by token: n-grams, lexicon and hot words.

Tokens are letters or pieces of words, the first piece of a word with the boundary in front of it.
A text of words w₁ … wₙ, each spelt in letters, scores

    Σ weight · ln P(wᵢ | those before) + word_score + hot words' weights
      [+ unknown_score + ln P(letters of wᵢ)   where the lexicon lacks wᵢ]

and weight · ln P(end). A prefix that ends inside a word is promised what the best word would score
that goes on so (as flashlight smears its trie), so that prefixes can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distillery.data.text import SPACE, Vocabulary
from distillery.data.units import Unit
from distillery.decoder.trie import (
    NONE,
    NOWHERE,
    ROOT,
    HotWord,
    Phrases,
    PhraseState,
    Trie,
)
from distillery.decoder.word_model import State, WordModel
from distillery.errors import ModelError
from distillery.language_model.ngrams import parts_of


@dataclass(frozen=True)
class SearchWeights:
    """What the parts of a score count, and how far the search looks."""

    weight: float = 1.0
    """Factor of ln P of the words."""
    word_score: float = 0.0
    """Nats added for every word; larger makes more and shorter words."""
    unknown_score: float | None = None
    """Nats added for a word that the lexicon lacks, on top of what its letters cost; None: such a
    word cannot be written."""
    beam_size: int = 10
    """Prefixes kept at each frame; more finds better texts and takes longer."""
    beam_threshold: float = 10.0
    """Nats below the best at which a prefix is given up; larger searches more and takes longer."""


class Prefix:
    """The beginning of a text, as tokens, and what the frames so far say of it."""

    __slots__ = (
        "ahead",
        "blank",
        "children",
        "new_blank",
        "new_other",
        "node",
        "other",
        "parent",
        "phrase",
        "rank",
        "score",
        "spelt",
        "stamp",
        "state",
        "token",
    )

    def __init__(
        self,
        parent: Prefix | None,
        token: int,
        node: int,
        state: State,
        phrase: PhraseState,
        score: float,
        ahead: float,
        spelt: float,
    ) -> None:
        """Begin without anything heard.

        Args:
            parent: the prefix without its last token; None: of the empty one.
            token: the last one; -1: none.
            node: of the lexicon, where the word that is being spelt is.
            state: of the language model, behind the last whole word.
            phrase: of the hot words, behind the last whole word.
            score: of all whole words.
            ahead: what the word that is being spelt is promised.
            spelt: ln P of its letters so far.
        """
        self.parent, self.token, self.node = parent, token, node
        self.state, self.phrase = state, phrase
        self.score, self.ahead, self.spelt = score, ahead, spelt
        self.children: dict[int, Prefix | None] = {}
        self.blank = self.other = self.new_blank = self.new_other = self.rank = -math.inf
        self.stamp = -1  # the frame that last reached it


class Grammar:
    """Scores of texts under one set of weights and hot words."""

    def __init__(
        self,
        model: WordModel,
        vocabulary: Vocabulary,
        weights: SearchWeights,
        hot_words: Sequence[HotWord] = (),
    ) -> None:
        """Spell the model's words in the letters of the tokens.

        Args:
            model: n-grams and words.
            vocabulary: the tokens.
            weights: of the parts of a score.
            hot_words: of which spellings the vocabulary must have all letters.

        Raises:
            ModelError: a hot word holds letters that no token stands for, or no word.
        """
        self.model, self.vocabulary, self.weights = model, vocabulary, weights
        self.boundary = vocabulary.tokens.index(SPACE) if SPACE in vocabulary.tokens else NONE
        self.by_words = model.unit is Unit.WORD
        self.begins_word = [token.startswith(SPACE) for token in vocabulary.tokens]
        """Of each token, whether a word begins with it, or behind it."""
        letters = sorted(vocabulary.characters - {SPACE})
        self._numbers = {letter: number for number, letter in enumerate(letters)}
        self._letters = [
            tuple(self._numbers[letter] for letter in token if letter != SPACE)
            for token in ("", *vocabulary.tokens[1:])
        ]
        self._last_letter = [numbers[-1] if numbers else NONE for numbers in self._letters]
        self._is_open = weights.unknown_score is not None
        self._extra: list[str] = []  # hot words that the model lacks
        self._typical = -math.log(max(1, len(model.words)))
        phrases = [(parts_of(hot.text, model.unit), hot) for hot in hot_words]
        self._check(phrases)
        self._phrases = Phrases([(words, hot.weight) for words, hot in phrases])
        self._has_phrases = bool(phrases)
        self._root_ahead = 0.0
        self.token_gain = 0.0
        """What a token adds at most to what was promised before it: of hot words."""
        if self.by_words:
            self._trie = self._lexicon()
            self._add_hot_words({word for words, _ in phrases for word in words})
            if self._trie.next:
                self._root_ahead = self._trie.best[ROOT]
            if self._is_open:
                self._spelling = self._spelling_scores(letters)

    def _check(self, phrases: Sequence[tuple[Sequence[str], HotWord]]) -> None:
        for words, hot in phrases:
            if not words:
                raise ModelError(f"hot word {hot.text!r}: holds no word, expected one or more")
            if unknown := self.vocabulary.unknown(hot.text):
                raise ModelError(
                    f"hot word {hot.text!r}: the model has no token for {sorted(unknown)}; write "
                    "it in the letters of tokens.txt"
                )

    @property
    def root(self) -> Prefix:
        """The empty text, before its first frame."""
        root = Prefix(None, NONE, ROOT, self.model.begin, ROOT, 0.0, self._root_ahead, 0.0)
        root.blank = 0.0
        return root

    def extend(self, prefix: Prefix, token: int) -> Prefix | None:
        """Return a prefix with one token more; None where no text goes on so."""
        if not self.by_words:
            return self._with_characters(prefix, token)
        if token == self.boundary:
            return None if prefix.node == ROOT else self._with_word(prefix)
        trie, behind = self._trie, prefix
        if prefix.node != ROOT and self.begins_word[token]:
            whole = self._with_word(prefix)
            if whole is None:
                return None
            behind = whole
        node, spelt = behind.node, behind.spelt
        former = NONE if node == ROOT else self._last_letter[behind.token]
        for letter in self._letters[token]:
            if node != NOWHERE:
                node = trie.next.get(node * trie.num_letters + letter, NOWHERE)
            if self._is_open:
                spelt += self._spelling[former][letter]
                former = letter
            elif node == NOWHERE:
                return None
        ahead = trie.best[node] if node != NOWHERE else self._unknown(behind.state, spelt)
        return Prefix(prefix, token, node, behind.state, behind.phrase, behind.score, ahead, spelt)

    def whole(self, prefix: Prefix) -> Prefix | None:
        """Return a prefix as it is when its last word is whole; None where it cannot be."""
        return self._with_word(prefix) if self.by_words and prefix.node != ROOT else prefix

    def final_score(self, prefix: Prefix) -> float:
        """Return what a text scores that ends here; -inf where none does."""
        whole = self.whole(prefix)
        if whole is None:
            return -math.inf
        end, _ = self.model.score(whole.state, self.model.end)
        return whole.score + self.weights.weight * end + self._phrases.broken(whole.phrase)

    def _with_word(self, prefix: Prefix) -> Prefix | None:
        """Return a prefix whose last word is whole, with the boundary behind it."""
        model, weights = self.model, self.weights
        word = NONE if prefix.node == NOWHERE else self._trie.word[prefix.node]
        score, phrase, text = prefix.score, prefix.phrase, ""
        if word == NONE:
            if not self._is_open:
                return None
            spelt = prefix.spelt + self._spelling[self._last_letter[prefix.token]][NONE]
            score += self._unknown(prefix.state, spelt)
            _, state = model.score(prefix.state, model.unknown)
        elif word < len(model.words):
            chance, state = model.score(prefix.state, word)
            score += weights.weight * chance + weights.word_score
            text = model.words[word]
        else:
            _, state = model.score(prefix.state, model.unknown)
            score += weights.weight * self._typical + weights.word_score
            text = self._extra[word - len(model.words)]
        if self._has_phrases:
            added, phrase = self._phrases.after(phrase, text)
            score += added
        return Prefix(prefix, self.boundary, ROOT, state, phrase, score, self._root_ahead, 0.0)

    def _with_characters(self, prefix: Prefix, token: int) -> Prefix | None:
        characters = self.vocabulary.tokens[token]
        if self.begins_word[token] and prefix.token in (NONE, self.boundary):
            characters = characters[1:]  # a boundary was there, or none is needed
            if not characters:
                return None
        score, state, phrase = prefix.score, prefix.state, prefix.phrase
        for character in characters:
            chance, state = self.model.score(
                state, self.model.number.get(character, self.model.unknown)
            )
            score += self.weights.weight * chance
            if character != SPACE:
                score += self.weights.word_score
            if self._has_phrases:
                added, phrase = self._phrases.after(phrase, character)
                score += added
        return Prefix(prefix, token, ROOT, state, phrase, score, 0.0, 0.0)

    def _unknown(self, state: State, spelt: float) -> float:
        chance, _ = self.model.score(state, self.model.unknown)
        unknown = self.weights.unknown_score or 0.0
        return self.weights.weight * chance + self.weights.word_score + unknown + spelt

    def _lexicon(self) -> Trie:
        trie, model, weights = Trie(len(self._numbers)), self.model, self.weights
        for word, text in enumerate(model.words):
            if spelling := self._spelled(text):
                chance = weights.weight * model.best_chance[word]
                trie.add(spelling, word, chance + weights.word_score)
        return trie

    def _add_hot_words(self, words: set[str]) -> None:
        weights, model = self.weights, self.model
        most = max(map(len, self._letters))
        for text in sorted(words):
            word = model.number.get(text)
            chance = self._typical if word is None else model.best_chance[word]
            if word is None:
                word = len(model.words) + len(self._extra)
                self._extra.append(text)
            spelling, bonus = self._spelled(text), self._phrases.share(text)
            self._trie.add(spelling, word, weights.weight * chance + weights.word_score, bonus)
            self.token_gain = max(self.token_gain, bonus * most / len(spelling))

    def _spelled(self, word: str) -> list[int]:
        """Return a word's letters by number; none where no token has a letter."""
        try:
            return [self._numbers[letter] for letter in word]
        except KeyError:
            return []

    def _spelling_scores(self, letters: Sequence[str]) -> list[list[float]]:
        """Return ln P of each letter behind each; the last of both is a word's start and end."""
        ends = [*letters, ""]
        return [[self.model.spelling_score(b, a) for b in ends] for a in ends]
