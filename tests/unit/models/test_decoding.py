import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.text import Vocabulary
from distillery.models.decoding import confidence, greedy_text, greedy_tokens, n_best, score_texts


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


# --- all alignments ------------------------------------------------------------------------------

LETTERS = Vocabulary.from_alphabet("ab")  # blank, |, a, b
seeds = st.integers(0, 2**32 - 1)


def posteriors(seed: int, frames: int, vocab: int = len(LETTERS)) -> np.ndarray:
    """Return random log-probabilities `(frames, vocab)`, float32."""
    scores = np.random.default_rng(seed).normal(0, 2, (frames, vocab))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def probabilities(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Return the probability of every token sequence: the sum over all paths that give it."""
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    frames, vocab = log_probs.shape
    for steps in itertools.product(range(vocab), repeat=frames):
        tokens = tuple(token for token, _ in itertools.groupby(steps) if token != 0)
        sums[tokens] += math.exp(sum(log_probs[t, v] for t, v in enumerate(steps)))
    return sums


def test_the_score_of_a_text_is_worked_out_by_hand() -> None:
    frames = np.log([[[0.6, 0.1, 0.3], [0.5, 0.3, 0.2]]]).astype(np.float32)
    vocabulary = Vocabulary.from_alphabet("a")  # blank, |, a
    # "a": aa 0.3 x 0.2, a- 0.3 x 0.5, -a 0.6 x 0.2; "": -- 0.6 x 0.5
    ((a, nothing),) = score_texts(frames, [2], [["a", ""]], vocabulary)
    assert a == pytest.approx(math.log(0.06 + 0.15 + 0.12), abs=1e-5)
    assert nothing == pytest.approx(math.log(0.3), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_scores_are_the_sums_over_all_paths_whatever_the_padding(seed: int) -> None:
    items = [posteriors(seed, 4), posteriors(seed + 1, 3)]
    batch = np.zeros((2, 4, len(LETTERS)), np.float32)
    batch[0], batch[1, :3] = items
    texts = [["ab", "a", "", "a b", "bb"], ["b", "aba"]]
    scores = score_texts(batch, [4, 3], texts, LETTERS)
    for item, asked, found in zip(items, texts, scores, strict=True):
        sums = probabilities(item)
        wanted = [math.log(sums[tuple(LETTERS.encode(text))]) for text in asked]
        assert found == pytest.approx(wanted, abs=1e-4)


def test_a_text_that_no_path_gives_has_no_probability() -> None:
    assert score_texts(posteriors(0, 2)[None], [2], [["aa"]], LETTERS) == [[-math.inf]]


def test_nothing_is_certain_where_there_are_no_frames() -> None:
    batch = np.stack([posteriors(0, 3), np.zeros((3, len(LETTERS)), np.float32)])
    assert score_texts(batch, [3, 0], [["a"], [""]], LETTERS)[1] == [0.0]
    assert score_texts(batch[:0], [], [], LETTERS) == []


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_a_wide_search_finds_the_texts_of_highest_total_probability(seed: int) -> None:
    log_probs = posteriors(seed, 4)
    log_probs[:, 1] = -30  # no word boundaries: a text is one token sequence
    sums = probabilities(log_probs)
    ranked = sorted(sums, key=sums.__getitem__, reverse=True)
    (found,) = n_best([log_probs], LETTERS, num_hypotheses=3, beam_size=500)
    found_sums = [sums[tuple(LETTERS.encode(text))] for text in found]
    assert len(set(found)) == 3
    assert found_sums == pytest.approx([sums[tokens] for tokens in ranked[:3]], rel=1e-3)


def test_all_alignments_together_may_beat_the_best_path() -> None:
    vocabulary = Vocabulary.from_alphabet("a")
    log_probs = np.log([[0.55, 1e-9, 0.45]] * 2).astype(np.float32)
    assert greedy_text(log_probs, vocabulary) == ""  # the best path, 0.55²
    assert n_best([log_probs], vocabulary, 2, 50) == [["a", ""]]  # 1 - 0.55² against 0.55²


def test_paths_that_differ_in_white_space_alone_give_one_text() -> None:
    vocabulary = Vocabulary.from_alphabet("a")
    log_probs = np.log([[0.1, 0.45, 0.45], [0.05, 0.05, 0.9], [0.1, 0.45, 0.45]])
    (texts,) = n_best([log_probs.astype(np.float32)], vocabulary, 5, 50)
    assert texts[0] == "a"
    assert len(texts) == len(set(texts))


def test_an_utterance_without_frames_has_the_empty_text_alone() -> None:
    found = n_best([posteriors(0, 0), posteriors(1, 4)], LETTERS, 2, 50)
    assert found[0] == [""]
    assert len(found[1]) == 2
