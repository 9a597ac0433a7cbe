import math

import pytest

from distillery.training.convergence import (
    first_plateau,
    has_stopped_improving,
    patience_at,
    plateaus,
)


def falling(epochs: int, least: float = 0.2, speed: float = 0.1) -> list[float]:
    """A rate that falls ever more slowly towards the least."""
    return [least + (1 - least) * math.exp(-speed * epoch) for epoch in range(epochs)]


def test_patience_is_ten_epochs_or_a_quarter_of_those_so_far() -> None:
    assert [patience_at(epoch) for epoch in (1, 80, 81, 100)] == [20, 20, 21, 25]
    assert patience_at(100, 3) == 3


def test_a_rate_that_falls_has_no_plateau_and_one_that_lies_still_has() -> None:
    rates = [1 - 0.01 * epoch for epoch in range(90)]
    assert first_plateau(rates) is None
    assert not has_stopped_improving(rates)
    flat = [*rates, *[rates[-1]] * 40]
    # The mean of five goes on falling for four epochs; then a quarter of the epochs has to pass.
    assert first_plateau(flat) == 126
    assert patience_at(125) > 125 - 94
    assert patience_at(126) == 126 - 94
    assert has_stopped_improving(flat)


def test_one_lucky_epoch_does_not_prolong_training() -> None:
    flat = falling(90, speed=0.2)
    lucky = [*flat[:45], flat[45] * 0.96, *flat[46:]]
    assert first_plateau(lucky) == first_plateau(flat)


def test_noise_of_single_epochs_does_not_hide_slow_progress() -> None:
    """Every epoch is off by points, the lowest rate stands far back, and still there is none."""
    rates = [rate + 0.03 * (-1) ** epoch for epoch, rate in enumerate(falling(30, speed=0.04))]
    rates[5] = 0.3
    assert first_plateau(rates) is None


def test_nothing_ends_before_anything_was_learnt() -> None:
    """CTC writes blanks first: every word is missing, for a hundred epochs of a small corpus."""
    blanks = [1.0] * 100
    assert first_plateau(blanks) is None
    rates = [*blanks, *falling(20)]
    assert first_plateau(rates) is None
    assert first_plateau([*rates, *[rates[-1]] * 60]) is not None


def test_a_plateau_that_was_left_is_none_at_the_end() -> None:
    rates = [*falling(20), *[0.5] * 15, *falling(30, least=0.1)]
    assert first_plateau(rates[:40]) is not None
    assert not has_stopped_improving(rates)


@pytest.mark.parametrize("rates", [[], [1.0], [0.0] * 9, [math.inf] * 50])
def test_too_little_says_nothing(rates: list[float]) -> None:
    assert not has_stopped_improving(rates)
    assert first_plateau(rates) is None


def test_a_rate_of_zero_cannot_improve() -> None:
    assert first_plateau([0.0] * 30) == 21


def test_what_comes_later_does_not_move_what_was_decided() -> None:
    rates = [*falling(30), *[0.24] * 60]
    flags = list(plateaus(rates))
    assert all(list(plateaus(rates[:n])) == flags[:n] for n in range(len(rates)))
