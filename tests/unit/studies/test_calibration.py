from __future__ import annotations

import numpy as np
import pytest

from distillery.errors import DistilleryError
from distillery.studies.calibration import Outcomes, calibration, text_outcomes, token_outcomes


def test_an_example_by_hand() -> None:
    outcomes = Outcomes([0.95, 0.95, 0.9, 0.55], [True, False, True, True])
    result = calibration(outcomes, num_bins=10)
    # (0.9, 1]: 0.95 against 1/2; (0.8, 0.9]: 0.9 against 1; (0.5, 0.6]: 0.55 against 1
    assert result.expected_error == pytest.approx((2 * 0.45 + 0.1 + 0.45) / 4)
    assert [item.num_samples for item in result.bins] == [0, 0, 0, 0, 0, 1, 0, 0, 1, 2]
    last = result.bins[-1]
    assert (last.low, last.high, last.accuracy) == pytest.approx((0.9, 1.0, 0.5))
    assert last.confidence == pytest.approx(0.95)


def test_a_calibrated_distribution_errs_by_chance_alone_and_a_boaster_by_its_boast() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0, 1, 200_000)
    right = random.uniform(0, 1, 200_000) < sure
    honest = calibration(Outcomes(sure.tolist(), right.tolist()))
    assert honest.expected_error < 0.005
    assert len(honest.bins) == 15
    # p right, sqrt(p) claimed: the mean boast is the integral of sqrt(p) - p, 2/3 - 1/2
    boast = calibration(Outcomes(np.sqrt(sure).tolist(), right.tolist()))
    assert boast.expected_error == pytest.approx(1 / 6, abs=0.005)


def test_the_always_sure_err_by_their_error_rate() -> None:
    assert calibration(Outcomes([1.0] * 10, [True] * 7 + [False] * 3)).expected_error == (
        pytest.approx(0.3)
    )
    assert calibration(Outcomes([1.0] * 5, [True] * 5)).expected_error == 0


def test_edges_belong_to_the_bin_below() -> None:
    result = calibration(Outcomes([0.0, 0.2, 0.4, 1.0], [True] * 4), num_bins=5)
    assert [item.num_samples for item in result.bins] == [2, 1, 0, 0, 1]
    third = calibration(Outcomes([k / 15 for k in range(1, 16)], [True] * 15))
    assert [item.num_samples for item in third.bins] == [1] * 15


def test_without_samples_nothing_is_known() -> None:
    empty = calibration(Outcomes([], []))
    assert (empty.expected_error, empty.num_samples) == (None, 0)


def test_scores_in_place_of_probabilities_are_refused() -> None:
    with pytest.raises(DistilleryError, match=r"confidence -1.5, expected one in \[0, 1\]"):
        calibration(Outcomes([-1.5], [True]))
    with pytest.raises(DistilleryError, match="confidence nan"):
        calibration(Outcomes([float("nan")], [True]))
    with pytest.raises(DistilleryError, match="2 confidences and 1 outcomes, expected as many"):
        calibration(Outcomes([0.5, 0.5], [True]))


def frames(*rows: tuple[int, float]) -> np.ndarray:
    """Return log-probabilities `(frames, 4)` whose best token and its probability are given."""
    probs = np.stack([np.full(4, (1 - p) / 3) for _, p in rows])
    for row, (token, p) in zip(probs, rows, strict=True):
        row[token] = p
    return np.log(probs).astype(np.float32)


def test_a_token_is_as_sure_as_its_surest_frame_and_blanks_count_nowhere() -> None:
    log_probs = frames((0, 0.99), (1, 0.6), (1, 0.8), (0, 0.9), (1, 0.7), (2, 0.5), (0, 0.4))
    found = token_outcomes(log_probs, [1, 3, 2])  # said: 1 1 2
    assert found.confidences == pytest.approx([0.8, 0.7, 0.5])
    assert found.correct == [True, False, True]


def test_a_token_that_is_missing_or_one_too_many() -> None:
    log_probs = frames((1, 0.9), (0, 0.9), (2, 0.6))
    assert token_outcomes(log_probs, [1, 3, 3, 2]).correct == [True, True]
    assert token_outcomes(log_probs, [2]).correct == [False, True]
    assert token_outcomes(log_probs, []).correct == [False, False]
    assert token_outcomes(frames((0, 0.9)), [1]) == Outcomes([], [])
    assert token_outcomes(np.zeros((0, 4), np.float32), [1]) == Outcomes([], [])


def test_texts_are_right_as_a_whole_and_outcomes_add_up() -> None:
    found = text_outcomes([0.9, 0.4], ["a b", "a"], ["a b", "a b"])
    assert found == Outcomes([0.9, 0.4], [True, False])
    assert (found + found).correct == [True, False, True, False]
