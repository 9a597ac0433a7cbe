"""Shares of the training data, and what is told of them; every figure is worked out by hand."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError
from distillery.evaluate.models import TrainedModel
from distillery.params.evaluate import EvaluateParams
from distillery.params.whole import Params
from distillery.studies import data_curve
from distillery.studies.data_curve import Amount, CurveModel
from tests.tiny import tiny_params

NUM_TRAIN = 400


def row(number: int, split: str = "train", text: str | None = "ab") -> dict[str, Any]:
    return {
        "utterance_id": f"{split}{number}",
        "split": split,
        "text": text,
        "duration_seconds": 9.0,
        "audio_key": f"key {split} {number}",
    }


def prepared(rows: list[dict[str, Any]]) -> PreparedData:
    return PreparedData(Path("nowhere"), pd.DataFrame(rows), {})


ROWS = [row(number) for number in range(NUM_TRAIN)]
OTHERS = [row(number, split) for split in ("valid", "test") for number in range(20)]
DATA = prepared([*ROWS, *OTHERS])


def drawn(data: PreparedData, fraction: float) -> list[str]:
    return list(data_curve.draw(data, fraction).split("train")["utterance_id"])


def settings(**curve: Any) -> Params:
    return Params.model_validate({**tiny_params(), "curve": curve})


def test_a_share_lies_inside_every_larger_one_and_has_about_its_size() -> None:
    shares = [drawn(DATA, fraction) for fraction in (0.1, 0.25, 0.5, 1.0)]
    for small, large in itertools.pairwise(shares):
        assert set(small) < set(large)
    assert [len(share) / NUM_TRAIN for share in shares] == pytest.approx(
        [0.1, 0.25, 0.5, 1.0], abs=0.06
    )


def test_a_share_keeps_validation_and_test_and_the_data_it_is_drawn_from() -> None:
    share = data_curve.draw(DATA, 0.1)
    for split in ("valid", "test"):
        pd.testing.assert_frame_equal(share.split(split), DATA.split(split))
    assert len(DATA.split("train")) == NUM_TRAIN


def test_new_data_move_no_utterance_and_equal_audio_stays_together() -> None:
    before = drawn(DATA, 0.25)
    more = [row(number) for number in range(NUM_TRAIN, 2 * NUM_TRAIN)]
    twin = {**ROWS[0], "utterance_id": "twin"}
    after = drawn(prepared([*reversed(more), twin, *ROWS, *OTHERS]), 0.25)
    assert [name for name in after if name in {item["utterance_id"] for item in ROWS}] == before
    assert ("twin" in after) == (ROWS[0]["utterance_id"] in before)


def test_an_amount_counts_hours_with_and_without_transcripts() -> None:
    rows = [row(n, text=None if n < 100 else "ab") for n in range(NUM_TRAIN)]
    amount = Amount.of(prepared([*rows, *OTHERS]), 1.0)
    assert (amount.num_utterances, amount.num_transcribed) == (400, 300)
    assert (amount.hours, amount.transcribed_hours) == (1.0, 0.75)


def test_shares_come_in_order_whatever_the_settings_order() -> None:
    found = data_curve.amounts(DATA, settings(fractions=[1.0, 0.25, 0.5]))
    assert [item.fraction for item in found] == [0.25, 0.5, 1.0]


def test_a_share_that_draws_nothing_is_named() -> None:
    with pytest.raises(CorpusError, match=r"fractions: 0.0001 draws 0 of the 400 training utter"):
        data_curve.amounts(DATA, settings(fractions=[0.0001, 1.0]))


def test_a_share_without_a_transcript_is_named_unless_nobody_needs_one() -> None:
    rows = [row(number, text=None) for number in range(NUM_TRAIN)]
    data = prepared([*rows, *OTHERS])
    number = len(drawn(data, 0.1))
    with pytest.raises(
        CorpusError,
        match=f"curve.fractions: 0.1 draws {number} of the 400 training utterances and none of "
        "them has a transcript, at least one is needed by the control; leave it out",
    ):
        data_curve.amounts(data, settings(fractions=[0.1]))
    plain = tiny_params(distill={"control": False})
    without = Params.model_validate({**plain, "curve": {"fractions": [0.1]}})
    assert data_curve.amounts(data, without)[0].num_utterances == number


def test_models_lie_apart_and_those_of_all_data_where_the_stage_puts_them() -> None:
    models = data_curve.models_of(settings(fractions=[1.0, 0.125]))
    assert models == [
        CurveModel("student", "conv", 0, 0.125),
        CurveModel("control", "conv", 0, 0.125),
        CurveModel("student", "conv", 0, 1.0),
        CurveModel("control", "conv", 0, 1.0),
    ]
    folders = [str(model.folder(Path("w"))) for model in models]
    assert folders == [
        "w/models/curve/students/conv/seed-0/12.5-percent",
        "w/models/curve/controls/conv/seed-0/12.5-percent",
        "w/models/students/conv/seed-0",
        "w/models/controls/conv/seed-0",
    ]
    assert str(models[3].learning_curve(Path("w"))) == "w/curves/controls/conv/seed-0.jsonl"


def test_without_controls_only_students_are_on_the_curve() -> None:
    plain = tiny_params(distill={"control": False, "seeds": [3, 1]})
    models = data_curve.models_of(Params.model_validate({**plain, "curve": {"fractions": [1.0]}}))
    assert [(model.role, model.seed) for model in models] == [("student", 3), ("student", 1)]


# --- figures ------------------------------------------------------------------------------------

PARAMS = EvaluateParams(num_resamples=200)
SHARES = [Amount(0.25, 5, 0.25, 0.25, 5), Amount(1.0, 20, 1.0, 0.5, 10)]


def heard(model: str, seed: int | None, errors: tuple[int, int]) -> pd.DataFrame:
    """Return predictions of two utterances, of four and of six words, with so many wrong."""
    return pd.DataFrame(
        {
            "model": model,
            "seed": pd.array([seed, seed], dtype="Int64"),
            "utterance_id": ["one", "two"],
            "hypothesis": ["x", "x"],
            "substitutions": errors,
            "deletions": 0,
            "insertions": 0,
            "word_errors": errors,
            "words": [4, 6],
            "character_errors": errors,
            "characters": [8, 12],
        }
    )


PREDICTIONS = pd.concat(
    [
        heard("teacher", None, (0, 1)),
        heard("students/conv@25", 0, (2, 3)),
        heard("students/conv@25", 1, (3, 4)),
        heard("controls/conv@25", 0, (4, 4)),
        heard("controls/conv@25", 1, (4, 6)),
        heard("students/conv@100", 0, (1, 1)),
        heard("students/conv@100", 1, (1, 1)),
        heard("controls/conv@100", 0, (1, 2)),
        heard("controls/conv@100", 1, (1, 2)),
    ],
    ignore_index=True,
)
STEPS = {
    TrainedModel(f"{group}/conv@{share}", seed): 70
    for group in ("students", "controls")
    for share in ("25", "100")
    for seed in (0, 1)
}


@pytest.fixture
def summary() -> dict[str, Any]:
    return {
        "confidence": 0.95,
        "seeds": [0, 1],
        "data": {"utterances": 2, "words": 10, "speakers": 1, "hours": 0.1},
        **data_curve.summarise(PREDICTIONS, STEPS, SHARES, PARAMS),
    }


def test_every_point_has_means_over_seeds_and_its_gain(summary: dict[str, Any]) -> None:
    assert summary["teacher"]["wer"] == 0.1
    small, whole = summary["points"]
    assert (small["name"], small["fraction"], small["hours"]) == ("conv", 0.25, 0.25)
    assert small["student"]["wer"] == pytest.approx((0.5 + 0.7) / 2)
    assert small["student"]["wer_sd"] == pytest.approx(0.02**0.5)
    assert small["control"]["wer"] == pytest.approx((0.8 + 1.0) / 2)
    assert small["gain"]["gain_wer"] == pytest.approx(0.3)
    assert small["gain"]["gap_closed"] == pytest.approx(6 / 16)
    assert [run["wer"] for run in small["student"]["by_seed"]] == [0.5, 0.7]
    assert whole["gain"]["gain_wer"] == pytest.approx(0.1)
    assert whole["transcribed_hours"] == 0.5


def test_the_table_has_one_row_per_student_share_and_role(
    summary: dict[str, Any], tmp_path: Path
) -> None:
    data_curve.write_report(summary, tmp_path / "reports")
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


def test_the_terminal_shows_hours_and_gains(summary: dict[str, Any]) -> None:
    text = data_curve.render(summary)
    for words in (
        "0.25 h (25 %)",
        "1 h (100 %)",
        "60.0 ± 14.1",
        "90.0 ± 14.1",
        "teacher: WER 10.0",
    ):
        assert words in text, words
    assert max(map(len, text.splitlines())) <= 100


def test_without_a_control_there_is_no_gain() -> None:
    alone = PREDICTIONS[~PREDICTIONS["model"].str.startswith("controls")]
    steps = {run: count for run, count in STEPS.items() if run.model.startswith("students")}
    figures = data_curve.summarise(alone, steps, SHARES, PARAMS)
    assert [sorted({"control", "student"} & set(point)) for point in figures["points"]] == [
        ["student"],
        ["student"],
    ]
    data = {"utterances": 2, "words": 10, "speakers": 1}
    text = data_curve.render({"confidence": 0.95, "seeds": [0, 1], "data": data, **figures})
    assert "-" in text.splitlines()[-4].split()
    assert not [p for p in data_curve.metrics({**figures}, 7) if p.key.startswith("gain")]


def test_mlflow_gets_each_curve_by_seconds_of_audio(summary: dict[str, Any]) -> None:
    points = data_curve.metrics(summary, 1234)
    values = {(point.key, point.step): point.value for point in points}
    assert len(values) == len(points)
    assert values["student/conv/wer", 900] == pytest.approx(0.6)
    assert values["control/conv/wer", 3600] == pytest.approx(0.3)
    assert values["gain/conv/wer", 900] == pytest.approx(0.3)
    assert values["teacher/wer", 900] == values["teacher/wer", 3600] == 0.1
    assert values["data/hours", 900] == 0.25
    assert {point.timestamp for point in points} == {1234}
