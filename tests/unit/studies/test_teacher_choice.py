"""Teachers compared; every figure is worked out by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distillery.params.objective import ObjectiveParams
from distillery.params.whole import Params
from distillery.studies import teacher_choice
from distillery.studies.fit import Fit
from distillery.studies.teacher_choice import Candidate, PilotResult
from tests.tiny import tiny_params

TEXTS = ["a b", "c d", "e f", "g h"]  # 8 words
ROWS = pd.DataFrame(
    {
        "text": TEXTS,
        "speaker": ["s", "s", "t", "t"],
        "duration_seconds": [900.0] * 4,
    }
)
CONTROL = ["a", "c", "e", "g"]  # 4 of 8 wrong
SETTINGS = Params.model_validate(
    tiny_params()
    | {"teacher_candidates": {"pilot": {"fraction": 0.25, "num_epochs": 2, "seeds": [3]}}}
)


def candidate(name: str, texts: list[str], student: list[str], **changes: Any) -> Candidate:
    """Return a candidate that heard some texts, and whose pilot student heard others."""
    known = Candidate(
        name,
        "trained",
        num_parameters=1000,
        num_tokens=5,
        frame_shift_seconds=0.04,
        gives_frames=True,
        texts=texts,
        calibration_error=0.05,
        calibrated_over="tokens",
        seconds_per_hour=12.0,
        cache_bytes_per_hour=3.5e6,
        fits=(Fit("conv", {}, ObjectiveParams()),),
        pilots=(PilotResult(3, student, CONTROL),),
    )
    return replace(known, **changes)


# The better recogniser (1 of 8 words wrong) gains 1 word of 8, the worse one (2 of 8) gains 3.
SHARP = candidate("sharp", ["a b", "c d", "e f", "g"], ["a b", "c", "e", "g"])
KIND = candidate("kind", ["a b", "c d", "e", "g"], ["a b", "c d", "e f", "g"])
LOST = Candidate("lost", "registry", "models:/nobody@champion: no such model")


def summary(*candidates: Candidate) -> dict[str, Any]:
    return teacher_choice.summarise(candidates, ROWS, 0.5, SETTINGS)


def test_what_a_student_gained_ranks_not_what_the_teacher_hears() -> None:
    found = summary(LOST, SHARP, KIND)
    assert [row["name"] for row in found["candidates"]] == ["kind", "sharp", "lost"]
    kind, sharp, lost = found["candidates"]
    assert (kind["wer"], sharp["wer"]) == (2 / 8, 1 / 8)
    assert kind["pilot"]["control_wer"] == sharp["pilot"]["control_wer"] == 4 / 8
    assert (kind["pilot"]["student_wer"], sharp["pilot"]["student_wer"]) == (1 / 8, 3 / 8)
    assert (kind["pilot"]["gain_wer"], sharp["pilot"]["gain_wer"]) == (3 / 8, 1 / 8)
    assert kind["pilot"]["gain_wer_low"] <= 3 / 8 <= kind["pilot"]["gain_wer_high"]
    assert "pilot" not in lost and "wer" not in lost
    assert found["lead"]["gain_wer"] == 2 / 8
    assert (found["lead"]["first"], found["lead"]["second"]) == ("kind", "sharp")


def test_without_a_pilot_the_better_recogniser_stands_first_behind_those_with_one() -> None:
    untried = [replace(item, pilots=(), pilot_problem="too little") for item in (KIND, SHARP)]
    other = candidate("other", ["", "", "", ""], ["a", "c", "e", ""])
    found = summary(LOST, *untried, other)
    assert [row["name"] for row in found["candidates"]] == ["other", "sharp", "kind", "lost"]
    assert found["lead"] is None


def test_a_gain_is_the_mean_over_the_seeds() -> None:
    two = replace(KIND, pilots=(*KIND.pilots, PilotResult(4, CONTROL, CONTROL)))
    (row,) = summary(two)["candidates"]
    assert row["pilot"]["gain_wer"] == pytest.approx((3 / 8 + 0) / 2)
    assert row["pilot"]["gain_wer_sd"] == pytest.approx(3 / 8 / 2**0.5)


def test_disagreement_is_the_same_from_both_sides() -> None:
    # 1 edit; 7 and 6 words
    assert teacher_choice.disagreement(SHARP.texts or [], KIND.texts or []) == pytest.approx(2 / 13)
    assert teacher_choice.disagreement(["a"], ["b c"]) == teacher_choice.disagreement(
        ["b c"], ["a"]
    )
    assert teacher_choice.disagreement(["", ""], ["", ""]) == 0.0
    found = summary(LOST, SHARP, KIND)["disagreement"]
    assert list(found) == ["kind", "sharp"]
    assert found["kind"]["sharp"] == found["sharp"]["kind"] == pytest.approx(2 / 13)
    assert found["kind"]["kind"] == 0.0


def test_the_table_tells_all_and_fits_a_terminal() -> None:
    misfit = Fit("conv", {"frame": "it gives texts"}, ObjectiveParams())
    kind = replace(KIND, fits=(misfit,), calibrated_over="texts")
    text = teacher_choice.render(summary(LOST, SHARP, kind))
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
    text = teacher_choice.render(summary(wide, SHARP))
    first = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert {"conformer-90", "(transformers)"} <= set(first)
    assert max(map(len, text.splitlines())) <= 100


def test_a_table_of_one_teacher_that_failed_is_a_table() -> None:
    found = summary(LOST)
    text = teacher_choice.render(found)
    assert "lost: cannot work" in text and "best teacher" not in text
    assert teacher_choice.metrics(found) == {}


def test_the_report_is_a_table_a_picture_and_all_figures(tmp_path: Path) -> None:
    found = summary(SHARP, KIND, LOST)
    teacher_choice.write_report(found, tmp_path / "reports")
    assert json.loads((tmp_path / "reports/teachers.json").read_text()) == found
    with open(tmp_path / "reports/teachers.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["teacher"] for row in rows] == ["kind", "sharp", "lost"]
    assert rows[0]["pilot_gain_wer"] == "0.375000"
    assert (rows[0]["parameters"], rows[2]["parameters"]) == ("1000", "")
    assert rows[2]["problem"] == LOST.problem
    assert (tmp_path / "reports/teachers.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_bear_the_candidates_name_and_leave_out_what_is_unknown() -> None:
    found = teacher_choice.metrics(summary(KIND, LOST))
    assert found["kind/wer"] == 2 / 8
    assert found["kind/pilot_gain_wer"] == 3 / 8
    assert "kind/pilot_gain_wer_sd" not in found  # one seed
    assert not [name for name in found if name.startswith("lost")]
