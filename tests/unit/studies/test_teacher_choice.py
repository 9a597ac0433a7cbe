"""Teachers compared; every figure is worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from distillery.data.units import Unit
from distillery.params.objective import ObjectiveParams
from distillery.params.whole import Params
from distillery.studies.fit import Fit
from distillery.studies.teacher_choice import (
    Candidate,
    PilotResult,
    TeacherChoice,
    disagreement,
    summarise,
)
from distillery.studies.teacher_report import render
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


def choice(*candidates: Candidate) -> TeacherChoice:
    return summarise(candidates, ROWS, 0.5, SETTINGS)


def test_what_a_student_gained_ranks_not_what_the_teacher_hears() -> None:
    found = choice(LOST, SHARP, KIND)
    assert [row.name for row in found.candidates] == ["kind", "sharp", "lost"]
    kind, sharp, lost = found.candidates
    assert kind.wer is not None and sharp.wer is not None
    assert (kind.wer.value, sharp.wer.value) == (2 / 8, 1 / 8)
    assert kind.pilot is not None and sharp.pilot is not None
    assert kind.pilot.control_wer.value == sharp.pilot.control_wer.value == 4 / 8
    assert (kind.pilot.student_wer.value, sharp.pilot.student_wer.value) == (1 / 8, 3 / 8)
    assert (kind.pilot.gain_wer.value, sharp.pilot.gain_wer.value) == (3 / 8, 1 / 8)
    assert kind.pilot.gain_wer.low <= 3 / 8 <= kind.pilot.gain_wer.high
    assert lost.pilot is None and lost.wer is None
    assert found.lead is not None
    assert found.lead.gain_wer.value == 2 / 8
    assert (found.lead.first, found.lead.second) == ("kind", "sharp")


def test_without_a_pilot_the_better_recogniser_stands_first_behind_those_with_one() -> None:
    untried = [replace(item, pilots=(), pilot_problem="too little") for item in (KIND, SHARP)]
    other = candidate("other", ["", "", "", ""], ["a", "c", "e", ""])
    found = choice(LOST, *untried, other)
    assert [row.name for row in found.candidates] == ["other", "sharp", "kind", "lost"]
    assert found.lead is None


def test_a_gain_is_the_mean_over_the_seeds() -> None:
    two = replace(KIND, pilots=(*KIND.pilots, PilotResult(4, CONTROL, CONTROL)))
    (row,) = choice(two).candidates
    assert row.pilot is not None
    assert row.pilot.gain_wer.value == pytest.approx((3 / 8 + 0) / 2)
    assert row.pilot.gain_wer.sd == pytest.approx(3 / 8 / 2**0.5)


def test_disagreement_is_the_same_from_both_sides() -> None:
    # 1 edit; 7 and 6 words
    assert disagreement(SHARP.texts or [], KIND.texts or []) == pytest.approx(2 / 13)
    assert disagreement(["a"], ["b c"]) == disagreement(["b c"], ["a"])
    assert disagreement(["", ""], ["", ""]) == 0.0
    found = choice(LOST, SHARP, KIND).disagreement
    assert list(found) == ["kind", "sharp"]
    assert found["kind"]["sharp"] == found["sharp"]["kind"] == pytest.approx(2 / 13)
    assert found["kind"]["kind"] == 0.0


def test_the_file_of_figures_has_flat_rates_and_nothing_of_what_is_unknown() -> None:
    content = choice(LOST, KIND).entries()
    kind, lost = content["candidates"]
    assert (kind["wer"], kind["wer_sd"]) == (2 / 8, None)
    assert {"wer", "wer_low", "wer_high", "pilot", "problem", "fits"} <= set(kind)
    assert {"gain_wer", "gain_wer_sd", "gain_wer_low", "gain_wer_high"} <= set(kind["pilot"])
    assert "wer" not in lost and "pilot" not in lost
    assert content["lead"] is None and lost["pilot_problem"] is None


def test_teachers_are_compared_by_characters_where_these_count() -> None:
    rows = ROWS.assign(text=["今天", "明天", "你好", "谢谢"])  # 8 characters, and 4 "words"
    heard = ["今天", "明日", "你好", "谢谢"]
    one = candidate("one", heard, ["今天", "明天", "你好", "谢"])
    one = replace(one, pilots=(PilotResult(3, one.pilots[0].student, ["今", "明", "你", "谢"]),))
    other = replace(one, name="other", texts=list(rows["text"]))
    found = summarise([one, other], rows, 0.5, SETTINGS, Unit.CHARACTER)
    (row,) = (row for row in found.candidates if row.name == "one")
    assert row.wer is not None and row.wer.value == 1 / 8
    assert row.pilot is not None and row.pilot.gain_wer.value == 3 / 8
    assert "points of CER" in row.pilot.verdict
    assert found.disagreement["one"]["other"] == 1 / 8
    shown = render(found)
    assert "8 characters" in shown and "CER %" in shown and "character edits" in shown
    assert "WER" not in shown
