from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from distillery.data.units import Unit
from distillery.errors import DistilleryError
from distillery.teachers.rover import SILENCE, best_of, n_best, rover, transition_network, vote

TEXT = st.lists(st.sampled_from("abc"), max_size=4).map(" ".join)
SURE = st.floats(0.01, 1.0)


def columns(slots: list[list[str]]) -> list[str]:
    return [" ".join(word for word in column if word) for column in zip(*slots, strict=True)]


def least_cost(slots: list[list[str]], words: tuple[str, ...]) -> int:
    """Try every way to align words with slots."""
    if not slots:
        return len(words)
    silent = least_cost(slots[1:], words) + (SILENCE not in slots[0])
    if not words:
        return silent
    joined = least_cost(slots[1:], words[1:]) + (words[0] not in slots[0])
    return min(silent, joined, least_cost(slots, words[1:]) + 1)


def cost_of(slots: list[list[str]]) -> int:
    """Return what the last text cost: nobody else speaks in a slot of its own."""
    return sum(slot[-1] not in slot[:-1] if any(slot[:-1]) else 1 for slot in slots)


@given(st.lists(TEXT, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_every_text_stands_in_the_network_word_for_word(texts: list[str]) -> None:
    slots = transition_network(texts)
    assert all(len(slot) == len(texts) and any(slot) for slot in slots)
    assert (columns(slots) or [""] * len(texts)) == texts


@given(st.lists(TEXT, min_size=2, max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_alignment_is_the_cheapest_of_all(texts: list[str]) -> None:
    slots = transition_network(texts)
    expected = least_cost(transition_network(texts[:-1]), tuple(texts[-1].split()))
    assert cost_of(slots) == expected


@given(TEXT, TEXT)
@settings(max_examples=100, deadline=None)
def test_two_texts_are_aligned_at_their_edit_distance(first: str, second: str) -> None:
    slots = transition_network([first, second])
    assert sum(a != b for a, b in slots) == Levenshtein.distance(first.split(), second.split())


@given(st.lists(st.tuples(TEXT, SURE), min_size=1, max_size=3), st.floats(0, 1), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_the_best_texts_are_those_of_all_ways_through_the_network(
    heard: list[tuple[str, float]], count_share: float, num_texts: int
) -> None:
    texts, sure = zip(*heard, strict=True)
    votes = vote(transition_network(texts), sure, count_share=count_share)
    for shares in votes:
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    ways: dict[str, float] = {}
    for way in itertools.product(*votes):
        text = " ".join(word for word in way if word)
        score = sum(math.log(shares[word]) for word, shares in zip(way, votes, strict=True))
        ways[text] = max(score, ways.get(text, -math.inf))
    found = n_best(votes, num_texts)
    assert [item.score for item in found] == pytest.approx(
        sorted(ways.values())[: -num_texts - 1 : -1]
    )
    assert all(ways[item.text] == pytest.approx(item.score) for item in found)
    assert len({item.text for item in found}) == len(found)


@given(TEXT, TEXT, SURE)
@settings(max_examples=100, deadline=None)
def test_two_of_three_decide_when_only_voices_count(text: str, other: str, sure: float) -> None:
    (best,) = rover([text, text, other], [0.1, 0.1, sure], count_share=1.0)
    assert best.text == text


@given(TEXT, st.integers(1, 4))
@settings(deadline=None)
def test_who_agrees_is_repeated(text: str, number: int) -> None:
    (best,) = rover([text] * number, [0.5] * number)
    assert (best.text, best.score) == (text, 0.0)


def test_an_example_by_hand() -> None:
    texts = ["the cat sat", "a cat sat down", "the cap sat down"]
    assert transition_network(texts) == [
        ["the", "a", "the"],
        ["cat", "cat", "cap"],
        ["sat", "sat", "sat"],
        ["", "down", "down"],
    ]
    best, second, *_ = rover(texts, [0.8, 0.5, 0.5], num_texts=5)
    assert best.text == "the cat sat down"
    # slot 1: the 2/6 + .65/2 = .65833, a 1/6 + .5/2 = .41667; slot 2: cat the same against cap;
    # slot 4: down 2/6 + .5/2 = .58333 against silence 1/6 + .8/2 = .56667
    likely = 0.65833 / 1.075
    assert best.score == pytest.approx(2 * math.log(likely) + math.log(0.58333 / 1.15), abs=1e-4)
    assert second.text == "the cat sat"


def test_a_sure_voice_outweighs_two_when_confidence_counts() -> None:
    texts, sure = ["right", "wrong", "wrong"], [0.9, 0.2, 0.2]
    assert rover(texts, sure, count_share=1.0)[0].text == "wrong"
    assert rover(texts, sure, count_share=0.0)[0].text == "right"
    assert rover(texts, [0.5] * 3, weights=[3.0, 1.0, 1.0])[0].text == "right"


def test_among_equals_the_first_recogniser_is_heard() -> None:
    assert rover(["b", "a"], [0.5, 0.5])[0].text == "b"
    assert rover(["", "a"], [0.5, 0.5])[0].text == ""
    assert rover(["b", "a"], [0.0, 0.0], count_share=0.0)[0].text == "b"


def test_the_surest_is_the_first_of_the_greatest_products() -> None:
    assert best_of([0.2, 0.9, 0.9]) == 1
    assert best_of([0.5, 0.9], weights=[2.0, 1.0]) == 0


def test_voices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DistilleryError, match="1 confidences and 1 weights for slots of"):
        vote([["a", "b"]], [0.5])
    with pytest.raises(DistilleryError, match=r"weights \[1.0, 0.0\], expected numbers above 0"):
        vote([["a", "b"]], [0.5, 0.5], [1.0, 0.0])


def test_characters_are_put_to_the_vote_where_there_are_no_spaces() -> None:
    texts = ["今天天汽好", "今夭天气好", "今天天气号"]  # each with another character wrong
    best = rover(texts, [0.5] * 3, unit=Unit.CHARACTER)[0]
    assert best.text == "今天天气好"
    assert rover(texts, [0.5] * 3)[0].text in texts  # whole sentences are words
    spaced = rover(["ab c", "ab c", "abc"], [0.5] * 3, unit=Unit.CHARACTER)[0]
    assert spaced.text == "ab c"
