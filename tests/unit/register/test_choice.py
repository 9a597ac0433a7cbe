"""Which small model is put up for promotion: never a student that its control clearly beats."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from distillery.data.units import Unit
from distillery.params.register import GateParams
from distillery.register.choice import Choice, choose
from distillery.tracking.names import CONTROL, STUDENT
from distillery.tracking.versions import Candidate

UTTERANCES = 30
WORDS = 10


def candidate(name: str, valid_wer: float, role: str = STUDENT) -> Candidate:
    return Candidate(
        name=name,
        seed=0,
        folder=Path(),
        md5="",
        run="",
        description="",
        tags={},
        test_digest="",
        test_wer=0.5,
        valid_wer=valid_wer,
        num_parameters=1,
        role=role,
    )


def predictions(**errors: int) -> pd.DataFrame:
    """Return what models made of 30 utterances of 10 words, `students_a=5` errors in each."""
    return pd.concat(
        pd.DataFrame(
            {
                "model": name.replace("_", "/"),
                "seed": 0,
                "utterance_id": [f"u{index:02d}" for index in range(UTTERANCES)],
                "words": WORDS,
                "word_errors": count,
            }
        )
        for name, count in errors.items()
    )


def chosen(students: list[Candidate], controls: list[Candidate], table: pd.DataFrame) -> Choice:
    return choose(students, {item.name: item for item in controls}, table, GateParams(), 200)


def test_a_student_that_its_control_does_not_beat_is_put_up() -> None:
    """Also where the control has the lower validation WER: by chance, for all that one knows."""
    table = predictions(students_a=5, controls_a=5)
    found = chosen([candidate("a", 0.4)], [candidate("a", 0.3, CONTROL)], table)
    assert (found.best.label, found.instead, found.passed_over) == ("student a", "", {})


def test_a_control_that_clearly_beats_its_student_is_put_up_in_its_place() -> None:
    table = predictions(students_a=10, controls_a=7)
    found = chosen([candidate("a", 1.0)], [candidate("a", 0.7, CONTROL)], table)
    assert found.best.role == CONTROL
    assert found.instead == (
        "the control of student a was put up instead of student a, which is significantly worse "
        "than its control, trained without the teacher: WER 100.00% against 70.00%, 30.0 points "
        "more and, with 95% confidence, at least 30.0"
    )


def test_another_student_may_be_better_than_that_control() -> None:
    table = predictions(students_a=5, controls_a=4, students_b=5, controls_b=6)
    controls = [candidate("a", 0.45, CONTROL), candidate("b", 0.1, CONTROL)]
    found = chosen([candidate("a", 0.2), candidate("b", 0.3)], controls, table)
    assert found.best.label == "student b"
    assert found.instead.startswith("student b was put up instead of student a, which is signif")
    assert list(found.passed_over) == ["a"]


def test_a_passed_over_student_that_was_not_the_best_changes_nothing() -> None:
    table = predictions(students_a=5, controls_a=5, students_b=9, controls_b=6)
    controls = [candidate("a", 0.5, CONTROL), candidate("b", 0.6, CONTROL)]
    found = chosen([candidate("a", 0.4), candidate("b", 0.9)], controls, table)
    assert (found.best.label, found.instead) == ("student a", "")
    assert list(found.passed_over) == ["b"]


def test_what_is_counted_is_called_by_its_name() -> None:
    table = predictions(students_a=10, controls_a=7)
    controls = {"a": candidate("a", 0.7, CONTROL)}
    students = [candidate("a", 1.0)]
    found = choose(students, controls, table, GateParams(), 200, Unit.CHARACTER)
    assert "CER 100.00% against 70.00%" in found.instead


def test_a_student_without_control_is_not_judged() -> None:
    found = chosen([candidate("a", 1.0)], [], predictions(students_a=10))
    assert found.best.label == "student a"
