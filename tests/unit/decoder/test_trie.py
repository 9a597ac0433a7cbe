"""Paths of words, and what hot phrases add and take back."""

from __future__ import annotations

import pytest

from distillery.data.text import Vocabulary
from distillery.decoder.trie import NONE, ROOT, HotWord, Phrases, Trie


def added(phrases: Phrases, text: str) -> float:
    state, total = ROOT, 0.0
    for word in text.split():
        more, state = phrases.after(state, word)
        total += more
    return total + phrases.broken(state)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flat white", 6.0),
        ("a flat white please", 6.0),
        ("flat", 0.0),
        ("flat tyre", 0.0),
        ("flat flat white", 6.0),
        ("flat white mocha", 9.0),
        ("mocha", 2.0),
        ("mocha flat mocha flat white", 10.0),
        ("white", 0.0),
    ],
)
def test_a_phrase_counts_as_a_whole_or_not_at_all(text: str, expected: float) -> None:
    phrases = Phrases(
        [(["flat", "white"], 6.0), (["mocha"], 2.0), (["flat", "white", "mocha"], 9.0)]
    )
    assert added(phrases, text) == pytest.approx(expected)


def test_a_node_promises_the_best_word_behind_it() -> None:
    trie = Trie(10)
    trie.add([1, 2], 0, -3.0)
    trie.add([1, 2, 3], 1, -1.0)
    trie.add([4], 2, -2.0)
    node = trie.next[ROOT * 10 + 1]
    assert (trie.best[ROOT], trie.best[node], trie.word[node]) == (-1.0, -1.0, NONE)
    assert trie.word[trie.next[node * 10 + 2]] == 0
    trie.add([1, 2], 0, 5.0)
    assert trie.best[ROOT] == 5.0


def test_hot_words_are_written_as_transcripts_are() -> None:
    vocabulary = Vocabulary.from_alphabet("abcdefghijklmnopqrstuvwxyz'")
    assert HotWord.written(" Flat-White! ", 2.0, vocabulary) == HotWord("flat white", 2.0)
    assert HotWord.written("yes", 2.0, Vocabulary.from_alphabet("YES")).text == "YES"
