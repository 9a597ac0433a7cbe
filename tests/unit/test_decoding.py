import math

import numpy as np
import pytest

from distillery.decoding import confidence, greedy_text, greedy_tokens
from distillery.text import Vocabulary


def path(*best: int, vocab: int = 5) -> np.ndarray:
    """Return log-probabilities `(frames, vocab)` whose best tokens are these, each with 0.6."""
    probabilities = np.full((len(best), vocab), 0.4 / (vocab - 1))
    probabilities[np.arange(len(best)), list(best)] = 0.6
    return np.log(probabilities)


@pytest.mark.parametrize(
    ("best", "tokens"),
    [
        ((2, 2, 2), [2]),  # a repeat is one token
        ((2, 0, 2), [2, 2]),  # a blank between keeps two
        ((0, 0, 0), []),
        ((0, 3, 3, 0, 0, 3, 2, 2, 0), [3, 3, 2]),
        ((1, 2, 1), [1, 2, 1]),
    ],
)
def test_repeats_merge_and_blanks_vanish(best: tuple[int, ...], tokens: list[int]) -> None:
    assert greedy_tokens(path(*best)) == tokens


def test_no_frames_hold_no_tokens() -> None:
    assert greedy_tokens(np.zeros((0, 5))) == []
    assert confidence(np.zeros((0, 5))) == 0.0


def test_text_comes_with_tidy_spaces() -> None:
    vocabulary = Vocabulary.from_alphabet("abc")  # blank, |, a, b, c
    frames = path(1, 1, 2, 2, 0, 2, 1, 0, 1, 4, 3, 1)
    assert greedy_text(frames, vocabulary) == "aa cb"


def test_confidence_is_the_geometric_mean_of_the_best_path() -> None:
    frames = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]))
    assert confidence(frames) == pytest.approx((0.9 * 0.8 * 0.5) ** (1 / 3))
    assert confidence(path(0, 1, 2)) == pytest.approx(0.6)


def test_a_certain_path_has_full_confidence() -> None:
    frames = np.array([[0.0, -math.inf], [-math.inf, 0.0]])
    assert confidence(frames) == 1.0
    assert greedy_tokens(frames) == [1]
