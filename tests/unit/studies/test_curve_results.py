"""Figures of the curves, each worked out by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from distillery.evaluate.models import TrainedModel
from distillery.evaluate.summary import TestData
from distillery.params.evaluate import EvaluateParams
from distillery.studies.curve_results import CurveResults, summarise
from distillery.studies.data_curve import Amount

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
DATA = TestData(utterances=2, words=10, speakers=1, hours=0.1)


def results() -> CurveResults:
    return summarise(PREDICTIONS, STEPS, SHARES, DATA, [0, 1], PARAMS)


def results_without_controls() -> CurveResults:
    alone = PREDICTIONS[~PREDICTIONS["model"].str.startswith("controls")]
    steps = {model: count for model, count in STEPS.items() if model.model.startswith("students")}
    return summarise(alone, steps, SHARES, DATA, [0, 1], PARAMS)


def test_every_point_has_means_over_seeds_and_its_gain() -> None:
    found = results()
    assert found.teacher.wer.value == 0.1
    small, whole = found.points
    assert (small.name, small.amount.fraction, small.amount.hours) == ("conv", 0.25, 0.25)
    assert small.student.rates.wer.value == pytest.approx((0.5 + 0.7) / 2)
    assert small.student.rates.wer.sd == pytest.approx(0.02**0.5)
    assert small.control is not None and small.gain.gain_wer is not None
    assert small.control.rates.wer.value == pytest.approx((0.8 + 1.0) / 2)
    assert small.gain.gain_wer.value == pytest.approx(0.3)
    assert small.gain.gap_closed == pytest.approx(6 / 16)
    assert [run.wer for run in small.student.by_seed] == [0.5, 0.7]
    assert whole.gain.gain_wer is not None
    assert whole.gain.gain_wer.value == pytest.approx(0.1)
    assert whole.amount.transcribed_hours == 0.5


def test_without_a_control_there_is_no_gain() -> None:
    for point in results_without_controls().points:
        assert set(point.by_role) == {"student"}
        assert point.gain.gain_wer is None
