"""Shares of the training data, and the models that are trained on them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError
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
