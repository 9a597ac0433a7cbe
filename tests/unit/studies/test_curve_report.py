"""What is told of the curves: table, picture, text, points."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from distillery.studies import curve_report
from tests.unit.studies.test_curve_results import results, results_without_controls


def test_the_table_has_one_row_per_student_share_and_role(tmp_path: Path) -> None:
    curve_report.write_report(results(), tmp_path / "reports")
    with open(tmp_path / "reports/curve.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["role"], r["hours"], r["wer"], r["gain_wer"]) for r in rows] == [
        ("teacher", "", "0.100000", ""),
        ("control", "0.250000", "0.900000", ""),
        ("student", "0.250000", "0.600000", "0.300000"),
        ("control", "1.000000", "0.300000", ""),
        ("student", "1.000000", "0.200000", "0.100000"),
    ]
    student = rows[2]
    assert (student["seeds"], student["wer_by_seed"]) == ("0 1", "0.5 0.7")
    assert (student["utterances"], student["steps"]) == ("5", "70 70")
    assert (tmp_path / "reports/curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_terminal_shows_hours_and_gains() -> None:
    text = curve_report.render(results())
    for words in (
        "0.25 h (25 %)",
        "1 h (100 %)",
        "60.0 ± 14.1",
        "90.0 ± 14.1",
        "teacher: WER 10.0",
    ):
        assert words in text, words
    assert max(map(len, text.splitlines())) <= 100


def test_without_a_control_no_gain_is_told() -> None:
    alone = results_without_controls()
    text = curve_report.render(alone)
    assert "-" in text.splitlines()[-4].split()
    assert not [p for p in curve_report.metrics(alone, 7) if p.key.startswith("gain")]


def test_mlflow_gets_each_curve_by_seconds_of_audio() -> None:
    points = curve_report.metrics(results(), 1234)
    values = {(point.key, point.step): point.value for point in points}
    assert len(values) == len(points)
    assert values["student/conv/wer", 900] == pytest.approx(0.6)
    assert values["control/conv/wer", 3600] == pytest.approx(0.3)
    assert values["gain/conv/wer", 900] == pytest.approx(0.3)
    assert values["teacher/wer", 900] == values["teacher/wer", 3600] == 0.1
    assert values["data/hours", 900] == 0.25
    assert {point.timestamp for point in points} == {1234}
