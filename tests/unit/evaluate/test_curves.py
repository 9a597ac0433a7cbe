import pytest

from distillery.evaluate.curves import Course, CurvePoint, course_of

FLAT = [0.5] * 30
FALLING = [0.9**epoch for epoch in range(30)]


def points(wers: list[float], *more: CurvePoint) -> list[CurvePoint]:
    """A curve as the trainer writes it, but for what was not written formerly."""
    return [
        *(
            CurvePoint(key, value, 10 * epoch)
            for epoch, wer in enumerate(wers, 1)
            for key, value in (("train/loss", 1.0), ("valid/wer", wer))
        ),
        *more,
    ]


@pytest.mark.parametrize(("wers", "converged"), [(FLAT, True), (FALLING, False)])
def test_curves_of_before_it_was_written_tell_whether_training_had_converged(
    wers: list[float], converged: bool
) -> None:
    assert course_of(points(wers)) == Course(30, None, converged)


@pytest.mark.parametrize("told", [0.0, 1.0])
def test_what_the_training_said_counts(told: float) -> None:
    said = CurvePoint("valid/converged", told, 300)
    seconds = [CurvePoint("train/cpu_seconds", 4.0 * n, 10 * n) for n in range(1, 31)]
    assert course_of(points(FALLING, *seconds, said)) == Course(30, 120.0, told == 1)


def test_the_time_of_earlier_generations_counts() -> None:
    earlier = [CurvePoint("generation-1/train/cpu_seconds", 5.0 * n, 10 * n) for n in (1, 2)]
    own = [CurvePoint("train/cpu_seconds", 4.0 * n, 10 * n) for n in range(1, 31)]
    course = course_of([*earlier, *points(FLAT, *own)])
    assert course == Course(30, 130.0, True)


def test_what_was_not_trained_here_has_no_course() -> None:
    assert course_of([]) is None
    assert course_of([CurvePoint("valid/wer", 0.1, 0)]) is None  # a pre-trained teacher
