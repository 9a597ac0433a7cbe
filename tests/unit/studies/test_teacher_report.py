"""What is told of a comparison of teachers: table, picture, text, metrics."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

from distillery.params.objective import ObjectiveParams
from distillery.studies import teacher_report
from distillery.studies.fit import Fit
from distillery.studies.teacher_choice import PilotResult
from tests.unit.studies.test_teacher_choice import CONTROL, KIND, LOST, SHARP, choice


def test_the_table_tells_all_and_fits_a_terminal() -> None:
    misfit = Fit("conv", {"frame": "it gives texts"}, ObjectiveParams())
    kind = replace(KIND, fits=(misfit,), calibrated_over="texts")
    text = teacher_report.render(choice(LOST, SHARP, kind))
    assert max(map(len, text.splitlines())) <= 100
    for words in (
        "Validation split: 4 utterances, 8 words",
        "0.5 h (25 %) of the training audio, 2 epochs, seed 3; control WER 50 %",
        "best teacher: kind, whose student gained 37.5 points of WER, 25.0",
        "more than with sharp",
        "sharp is the better recogniser",
        "kind: student conv: no frame, for it gives texts; what works: frame, sequence",
        "kind: ECE of whole texts",
        "lost: cannot work: models:/nobody@champion: no such model",
        "1 of 1",
        "0 of 1",
        "3.5",
        "15.4",  # 2 / 13
    ):
        assert words in " ".join(text.split()), words


def test_names_and_kinds_stand_in_one_line_beside_wide_figures() -> None:
    two = PilotResult(4, ["", "", "", ""], CONTROL)  # several seeds: means with their spread
    wide = replace(KIND, name="conformer-90", kind="transformers", pilots=(*KIND.pilots, two))
    text = teacher_report.render(choice(wide, SHARP))
    first = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert {"conformer-90", "(transformers)"} <= set(first)
    assert max(map(len, text.splitlines())) <= 100


def test_a_table_of_one_teacher_that_failed_is_a_table() -> None:
    found = choice(LOST)
    text = teacher_report.render(found)
    assert "lost: cannot work" in text and "best teacher" not in text
    assert teacher_report.metrics(found) == {}


def test_the_report_is_a_table_a_picture_and_all_figures(tmp_path: Path) -> None:
    found = choice(SHARP, KIND, LOST)
    teacher_report.write_report(found, tmp_path / "reports")
    content = json.loads((tmp_path / "reports/teachers.json").read_text())
    assert content == json.loads(json.dumps(found.entries()))
    with open(tmp_path / "reports/teachers.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["teacher"] for row in rows] == ["kind", "sharp", "lost"]
    assert rows[0]["pilot_gain_wer"] == "0.375000"
    assert (rows[0]["parameters"], rows[2]["parameters"]) == ("1000", "")
    assert rows[2]["problem"] == LOST.problem
    assert (tmp_path / "reports/teachers.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_bear_the_candidates_name_and_leave_out_what_is_unknown() -> None:
    found = teacher_report.metrics(choice(KIND, LOST))
    assert found["kind/wer"] == 2 / 8
    assert found["kind/pilot_gain_wer"] == 3 / 8
    assert "kind/pilot_gain_wer_sd" not in found  # one seed
    assert not [name for name in found if name.startswith("lost")]
