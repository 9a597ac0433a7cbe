import math

import pytest
from pydantic import ValidationError

from distillery.distill.schedules import value_at
from distillery.params.objective import Schedule, lowest, peak


def test_a_number_is_itself_at_all_times() -> None:
    assert [value_at(0.3, progress) for progress in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]
    assert (peak(0.3), lowest(0.3)) == (0.3, 0.3)


def test_a_line_goes_evenly_from_start_to_end() -> None:
    falling = Schedule(start=1.0, end=0.2)
    assert [value_at(falling, p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [1, 0.8, 0.6, 0.2]
    )
    assert (peak(falling), lowest(falling)) == (1.0, 0.2)


def test_nothing_changes_before_from_and_after_until() -> None:
    rising = Schedule(start=0.0, end=2.0, from_=0.25, until=0.75)
    assert [value_at(rising, p) for p in (0.0, 0.25, 0.5, 0.75, 0.9)] == [0, 0, 1, 2, 2]
    assert (peak(rising), lowest(rising)) == (2.0, 0.0)


def test_a_cosine_is_slow_at_both_ends() -> None:
    rising = Schedule(start=0.0, end=1.0, shape="cosine")
    # (1 - cos π/4) / 2, one half, and what the first lacks to one.
    quarter = (1 - math.sqrt(0.5)) / 2
    found = [value_at(rising, p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0, quarter, 0.5, 1 - quarter, 1])


def test_settings_name_the_ends_as_params_yaml_does() -> None:
    schedule = Schedule.model_validate({"start": 0, "end": 1, "from": 0.1, "until": 0.9})
    assert schedule.model_dump() == {
        "start": 0.0,
        "end": 1.0,
        "shape": "linear",
        "from": 0.1,
        "until": 0.9,
    }
    assert Schedule.model_validate(schedule.model_dump()) == schedule


def test_a_schedule_that_takes_no_time_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"from 0\.5 is not below until 0\.5"):
        Schedule(start=0, end=1, from_=0.5, until=0.5)
