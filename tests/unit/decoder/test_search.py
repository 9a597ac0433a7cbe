"""The search against all alignments, one by one; in pieces; and what it says before the end."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from distillery.data.text import BLANK, SPACE, Vocabulary
from distillery.data.units import Unit
from distillery.decoder.grammar import Grammar, SearchWeights
from distillery.decoder.search import FORGET_FRAMES, Search
from distillery.decoder.trie import HotWord
from distillery.decoder.word_model import WordModel, pack
from distillery.language_model.ngrams import END, START, estimate

VOCABULARY = Vocabulary((BLANK, SPACE, "a", "b"))
PIECES = Vocabulary((BLANK, SPACE, "a", "b", "|a", "ab"))
TEXTS = ["ab a", "a b", "ab", "ab ab a", "b a"]
WIDE = {"beam_size": 10_000, "beam_threshold": 1e6}
MODEL = estimate(TEXTS, 2)
PACKED = WordModel.from_bytes(pack(MODEL, (), Unit.WORD))


def log_probs(seed: int, frames: int, vocab: int = 4) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(0, 2, (frames, vocab))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def grammar_score(text: str, weights: SearchWeights, hot: str | None) -> float:
    """What a text scores before anything is heard, by the formula in grammar.py."""
    total, words = 0.0, [START, *text.split(), END]
    for place, word in enumerate(words[1:], 1):
        history = [w if w in PACKED.number or w == START else "<unk>" for w in words[:place]]
        known = word in PACKED.number or word == END
        if not known and weights.unknown_score is None:
            return -math.inf
        total += weights.weight * math.log(MODEL.probability(word, history))
        if word != END:
            total += weights.word_score + (5.0 if word == hot else 0.0)
        if not known:
            path = ["", *word, ""]
            total += (weights.unknown_score or 0.0) + sum(
                PACKED.spelling_score(b, a) for a, b in itertools.pairwise(path)
            )
    return total


def by_hand(
    items: np.ndarray,
    weights: SearchWeights,
    hot: str | None = None,
    vocabulary: Vocabulary = VOCABULARY,
) -> dict[str, float]:
    """Return the score of every text, over all alignments of its tokens.

    A boundary at the beginning, or behind another, changes nothing; one at the end is a prefix of
    its own with the same text, of which the better one counts.
    """
    mass: dict[tuple[int, ...], float] = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(items.shape[1]), repeat=len(items)):
        tokens: list[int] = []
        for token in (token for token, _ in itertools.groupby(path)):
            if token and not (token == 1 and (not tokens or tokens[-1] == 1)):
                tokens.append(token)
        heard = float(sum(items[frame, token] for frame, token in enumerate(path)))
        mass[tuple(tokens)] = np.logaddexp(mass[tuple(tokens)], heard)
    scores: dict[str, float] = {}
    for tokens, heard in mass.items():
        text = vocabulary.decode(tokens)
        total = heard + grammar_score(text, weights, hot)
        scores[text] = max(total, scores.get(text, -math.inf))
    return {text: total for text, total in scores.items() if total > -math.inf}


@pytest.mark.parametrize("unknown", [None, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_it_finds_what_all_alignments_say(seed: int, unknown: float | None) -> None:
    weights = SearchWeights(0.8, 0.5, unknown, **WIDE)
    items = log_probs(seed, 5)
    search = Search(Grammar(PACKED, VOCABULARY, weights))
    search.push(items)
    expected = by_hand(items, weights)
    found = {item.text: item.score for item in search.finish(len(expected))}
    assert found.keys() == expected.keys()
    for text, score in expected.items():
        assert found[text] == pytest.approx(score, abs=1e-3), text


@pytest.mark.parametrize("unknown", [None, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_pieces_of_words_score_as_their_letters_do(seed: int, unknown: float | None) -> None:
    weights = SearchWeights(0.8, 0.5, unknown, **WIDE)
    items = log_probs(seed, 5, len(PIECES))
    for hot in (None, "b"):
        hot_words = [] if hot is None else [HotWord(hot, 5.0)]
        search = Search(Grammar(PACKED, PIECES, weights, hot_words))
        search.push(items)
        expected = by_hand(items, weights, hot, PIECES)
        found = {item.text: item.score for item in search.finish(len(expected))}
        assert found.keys() == expected.keys()
        for text, score in expected.items():
            assert found[text] == pytest.approx(score, abs=1e-3), text


def test_a_word_of_pieces_that_is_not_whole_is_left_out() -> None:
    sure = np.full((3, len(PIECES)), -50.0, np.float32)
    for frame, token in enumerate(("|a", "|a", "b")):  # "a" is no word of this lexicon
        sure[frame, PIECES.tokens.index(token)] = 0.0
    counted = estimate(["ab ab", "abb"], 2)
    model = WordModel.from_bytes(pack(counted, (), Unit.WORD))
    weights = SearchWeights(1.0, 0.0, None, beam_size=1)
    search = Search(Grammar(model, PIECES, weights))
    search.push(sure[1:])
    assert search.finish()[0].text == "ab"
    search = Search(Grammar(model, PIECES, weights))
    search.push(np.concatenate([sure[1:], sure[:1]]))
    assert [search.text, search.finish()[0].text] == ["ab a", "ab"]


@pytest.mark.parametrize("seed", range(3))
def test_hot_words_add_their_weight_once_for_every_time(seed: int) -> None:
    weights, items = SearchWeights(0.8, 0.5, 0.0, **WIDE), log_probs(seed, 5)
    for hot in ("b", "bb"):  # one of the lexicon, and one that it lacks
        search = Search(Grammar(PACKED, VOCABULARY, weights, [HotWord(hot, 5.0)]))
        search.push(items)
        found = {item.text: item.score for item in search.finish(1000)}
        plain = by_hand(items, weights, hot)
        for text in plain:
            if hot in PACKED.number or hot not in text.split():
                assert found[text] == pytest.approx(plain[text], abs=1e-3), text
            else:  # it counts as any word of the lexicon does
                assert found[text] > plain[text], text


def test_the_narrow_search_finds_the_same_best_text() -> None:
    same = 0
    for seed in range(20):
        items = log_probs(seed, 6)
        texts = []
        for size in ({}, WIDE):
            search = Search(Grammar(PACKED, VOCABULARY, SearchWeights(0.8, 0.5, 0.0, **size)))
            search.push(items)
            texts.append(search.finish()[0].text)
        same += texts[0] == texts[1]
    assert same >= 19


@pytest.mark.parametrize("vocabulary", [VOCABULARY, PIECES], ids=["letters", "pieces"])
@pytest.mark.parametrize("unit", [Unit.WORD, Unit.CHARACTER])
def test_parts_give_what_the_whole_gives_and_what_is_settled_stays(
    unit: Unit, vocabulary: Vocabulary
) -> None:
    model = WordModel.from_bytes(pack(estimate(TEXTS, 2, unit), (), unit))
    grammar = Grammar(model, vocabulary, SearchWeights(0.8, 0.5, 0.0))
    items = log_probs(3, 3 * FORGET_FRAMES, len(vocabulary))
    whole = Search(grammar)
    whole.push(items)
    pieces, settled = Search(grammar), ""
    for part in np.array_split(items, 50):
        pieces.push(part)
        assert pieces.settled_text.startswith(settled)
        settled = pieces.settled_text
        assert pieces.text
    best, other = whole.finish(3), pieces.finish(3)
    assert [item.text for item in best] == [item.text for item in other]
    assert best[0].text.startswith(settled) and len(settled) > len(best[0].text) / 2
    assert vocabulary.decode(best[0].tokens) == best[0].text


def test_characters_are_searched_without_a_lexicon() -> None:
    vocabulary = Vocabulary((BLANK, SPACE, "天", "地"))
    counted = estimate(["天地", "天天地"], 2, Unit.CHARACTER)
    model = WordModel.from_bytes(pack(counted, (), Unit.CHARACTER))
    close = np.log(np.array([[0.02, 0.01, 0.94, 0.03], [0.9, 0.02, 0.04, 0.04],
                             [0.02, 0.01, 0.6, 0.37]], np.float32))  # fmt: skip
    texts = []
    for weight in (0.0, 1.0):
        search = Search(Grammar(model, vocabulary, SearchWeights(weight)))
        search.push(close)
        texts.append(search.finish()[0].text)
    assert texts == ["天天", "天地"]


def test_nothing_heard_is_the_empty_text() -> None:
    search = Search(Grammar(PACKED, VOCABULARY, SearchWeights()))
    search.push(np.zeros((0, 4), np.float32))
    assert search.finish()[0].text == search.text == ""
    search.push(np.log(np.array([[0.9997, 1e-4, 1e-4, 1e-4]] * 9, np.float32)))
    assert [item.text for item in search.finish()] == [""]


def test_a_word_that_is_cut_off_is_left_out_where_only_known_ones_are_written() -> None:
    """No beam ends a word: `aa` is none, and nothing else was heard."""
    model = WordModel.from_bytes(pack(estimate(["aaa"], 2), (), Unit.WORD))
    sure = np.full((3, 4), -20.0, np.float32)
    sure[[0, 1, 2], [2, 0, 2]] = 0.0
    search = Search(Grammar(model, VOCABULARY, SearchWeights(beam_size=1)))
    search.push(sure)
    assert [item.text for item in search.finish(5)] == [""]
