import math

import pytest

from distillery.params.training import TrainingParams
from distillery.training.schedule import Cooldown, cooldown_of, cosine_share, stable_share

AUTO = TrainingParams(num_epochs="auto", max_epochs=60, patience=10, cooldown_fraction=0.2)


def test_a_cosine_rises_falls_by_half_in_the_middle_and_ends_at_a_hundredth() -> None:
    shares = [cosine_share(progress, 0.1) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert shares == pytest.approx([0.01, 0.5, 1.0, 0.505, 0.01])


def test_a_stable_step_size_rises_by_steps_and_stays() -> None:
    shares = [stable_share(step, 4, step / 10, None) for step in range(6)]
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert stable_share(0, 0, 0.0, None) == 1.0


def test_a_cooldown_falls_as_one_minus_the_root() -> None:
    cooldown = Cooldown(40, 8, True)
    epochs = (39.0, 40.0, 42.0, 46.0, 47.99)
    shares = [stable_share(4000, 400, epoch, cooldown) for epoch in epochs]
    assert shares[:4] == pytest.approx([1.0, 1.0, 0.5, 1 - math.sqrt(0.75)])
    assert 0 < shares[4] < 0.001
    assert cooldown.ends == 48


def test_the_cooldown_begins_at_the_plateau_and_takes_a_share_of_the_epochs_before_it() -> None:
    rates = [0.9, 0.7, 0.5, 0.4, *[0.3] * 16]
    begins = 19  # the mean of five is lowest from epoch 9 on, ten before
    assert cooldown_of(rates[: begins - 1], AUTO) is None
    for known in (rates[:begins], rates, [*rates, *[0.1] * 20]):
        assert cooldown_of(known, AUTO) == Cooldown(begins, round(0.2 * begins), True)


def test_without_a_cooldown_training_ends_at_the_plateau_or_at_the_maximum() -> None:
    params = AUTO.model_copy(update={"cooldown_fraction": None})
    flat = [0.9, 0.7, 0.5, 0.4, *[0.3] * 16]
    assert cooldown_of(flat, params) == Cooldown(19, 0, True)
    falling = [0.98**epoch for epoch in range(60)]
    assert cooldown_of(falling, params) == Cooldown(60, 0, False)


def test_what_does_not_stop_improving_cools_down_in_time_for_the_maximum() -> None:
    rates = [0.98**epoch for epoch in range(60)]
    assert cooldown_of(rates[:49], AUTO) is None
    assert cooldown_of(rates[:50], AUTO) == Cooldown(50, 10, False)


@pytest.mark.parametrize(("most", "begins", "length"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (7, 5, 2)])
def test_a_low_maximum_is_kept(most: int, begins: int, length: int) -> None:
    params = AUTO.model_copy(update={"max_epochs": most})
    cooldown = cooldown_of([0.5] * 10, params)
    assert cooldown == Cooldown(begins, length, False)
    assert cooldown.ends <= most
