"""Tokens of many texts in arrays are those that were put in."""

import gc

import pandas as pd
import pytest

from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.training.token_lists import TokenLists, WeightedTexts, transcripts

ITEMS = [[1, 2, 3], None, [], [4], None]
SAID = [[([1, 2], 0.25), ([], 0.75)], [], [([3], 1.0)]]


def test_lists_come_back_as_they_were() -> None:
    lists = TokenLists(iter(ITEMS))
    assert len(lists) == 5
    assert [lists[row] for row in range(5)] == list(lists) == ITEMS
    assert lists[-2] == [4]
    with pytest.raises(IndexError):
        lists[5]
    assert list(TokenLists([])) == []


def test_tables_of_tokens_may_be_large() -> None:
    items = [[1, 65_535], [3, 65_536, 70_000], None, [2**31 - 1]]
    assert list(TokenLists(items)) == items


def test_hypotheses_come_back_with_their_weights() -> None:
    texts = WeightedTexts(iter(item) for item in SAID)
    assert len(texts) == 3
    assert [texts[row] for row in range(3)] == [[([1, 2], 0.25), ([], 0.75)], [], [([3], 1.0)]]
    with pytest.raises(IndexError):
        texts[3]


def test_an_utterance_without_a_transcript_has_no_tokens() -> None:
    vocabulary = Vocabulary.from_alphabet("ab")
    found = transcripts(pd.Series(["ab a", None, "b"], dtype="str"), vocabulary)
    assert list(found) == [vocabulary.encode("ab a"), None, vocabulary.encode("b")]
    with pytest.raises(ModelError, match="have no token"):
        transcripts(pd.Series(["abc"]), vocabulary)


def test_no_object_is_held_for_each_text() -> None:
    gc.collect()
    before = len(gc.get_objects())
    held = TokenLists([index] for index in range(10_000)), WeightedTexts(SAID * 1000)
    gc.collect()
    assert len(gc.get_objects()) - before < 1000
    assert len(held[0]) == 10_000
