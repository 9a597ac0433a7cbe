"""Confidence that is fitted on words: what can be counted comes out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.decoder.confidence import Confidence
from distillery.evaluate.confidence import fit_confidence

LETTERS = Vocabulary.from_alphabet("ab")  # <blank> | a b
TOKENS = len(LETTERS)


def utterance(sure: float) -> np.ndarray:
    """Return log-probabilities of the word `a`, heard with this probability."""
    rows = np.full((3, TOKENS), 0.01)
    rows[:, 0] = 1 - 0.01 * (TOKENS - 1)
    rows[1] = (1 - sure) / (TOKENS - 1)
    rows[1, LETTERS.tokens.index("a")] = sure
    return np.log(rows).astype(np.float32)


def fitted(shares: dict[float, float], each: int = 1000) -> Confidence | None:
    """Fit words of which such shares are right, by the network's own probability."""
    items, references = [], []
    for sure, share in shares.items():
        right = round(share * each)
        items += [utterance(sure)] * each
        references += ["a"] * right + ["b"] * (each - right)
    return fit_confidence(items, references, LETTERS, None, Unit.WORD)


def test_a_network_that_is_too_sure_is_set_right() -> None:
    found = fitted({0.99: 0.8, 0.6: 0.4})
    assert found is not None and found.num_words == 2000
    assert found.of(math.log(0.99 / 0.01)) == pytest.approx(0.8, abs=0.005)
    assert found.of(math.log(0.6 / 0.4)) == pytest.approx(0.4, abs=0.005)
    assert found.expected_error == pytest.approx(0, abs=0.005)


def test_a_few_words_that_are_all_right_make_nobody_certain() -> None:
    found = fitted({0.9: 1.0}, each=8)
    assert found is not None
    assert found.of(math.log(9)) == pytest.approx(9 / 10, abs=0.005)  # (8 + 1) / (8 + 2)


@pytest.mark.parametrize(
    "shares", [{0.9: 0.0, 0.91: 1.0}, {0.9: 1.0, 0.91: 0.0}, {0.6: 1.0, 0.99: 0.5}]
)
def test_a_step_between_a_few_words_is_not_taken_for_the_truth(shares: dict[float, float]) -> None:
    """Whatever was fitted, more evidence never means less, and every word has a confidence."""
    found = fitted(shares, each=2)
    assert found is not None
    values = [found.of(evidence) for evidence in (-1e6, -13.8, 0.0, 2.2, 9.2, 1e6)]
    assert values == sorted(values)
    assert all(0 <= value <= 1 for value in values)
    assert 0 <= found.slope <= 5


def test_words_that_are_missing_count_nowhere_and_nothing_heard_fits_nothing() -> None:
    silence = np.log(np.full((3, TOKENS), [0.97, 0.01, 0.01, 0.01])).astype(np.float32)
    assert fit_confidence([silence], ["a"], LETTERS, None, Unit.WORD) is None
    both = fit_confidence([silence, utterance(0.9)], ["a b", "b a"], LETTERS, None, Unit.WORD)
    assert both is not None and both.num_words == 1
