"""summary.json: written as it was before its content had types, and read whatever wrote it.

tests/expected/reports_before_records holds reports of the version before: of its demo, with one
student left, and of the workspace of `test_evaluate.two_seeds` with a second student that streams,
without a control, and with a language model.
"""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from distillery.errors import StageError
from distillery.evaluate.dvc_metrics import dvc_metrics
from distillery.evaluate.records import Estimate
from distillery.evaluate.summary import Summary
from distillery.files import write_json
from distillery.register.metrics import model_metrics

BEFORE = Path(__file__).resolve().parents[2] / "expected/reports_before_records"


@pytest.mark.parametrize("name", ["demo", "every_figure"])
def test_a_summary_is_written_as_it_was_read(tmp_path: Path, name: str) -> None:
    Summary.read(BEFORE / name).write(tmp_path)
    assert (tmp_path / "summary.json").read_bytes() == (BEFORE / name / "summary.json").read_bytes()


def test_the_demos_figures_are_those_of_before() -> None:
    summary = Summary.read(BEFORE / "demo")
    assert [row.label for row in summary.models] == ["teacher", "control conv", "student conv"]
    assert summary.teacher.by_seed == ()
    assert summary.teacher.runs == (summary.teacher,)
    student = summary.students["conv"]
    assert student.wer.value == student.of_seed(0).wer.value == 0.3008849557522124
    assert student.wer.sd is None
    assert student.wer.low < student.wer.value < student.wer.high
    assert student.wer_lm is student.latency_ms is None
    assert summary.exports["conv"].formats["onnx"].same_texts_fraction > 0.9
    report = summary.filters["conv"]
    assert report is not None
    assert (report.num_kept, report.dropped) == (759, {})
    gain = summary.comparisons["conv"].of_seed(0)
    assert gain is not None
    assert gain.gain_wer == summary.comparisons["conv"].gain_wer


def test_what_is_not_always_measured_is_there_where_it_was() -> None:
    summary = Summary.read(BEFORE / "every_figure")
    assert summary.seeds == (0, 3)
    streaming = summary.students["rand"]
    assert streaming.latency_ms is not None
    assert streaming.latency_ms.chunk == 100
    assert streaming.wer_lm is not None
    assert summary.comparisons["rand"].gain_wer is None
    assert summary.comparisons["rand"].of_seed(3) is None
    assert summary.comparisons["conv"].gain_wer_lm is not None
    assert summary.filters["rand"] is None
    assert summary.language_models["students/rand/seed-3"].beam_size > 0
    assert isinstance(summary.teacher.substitutions, int)
    assert isinstance(streaming.substitutions, float)  # a mean over two seeds


def test_dvc_and_mlflow_are_told_the_numbers_of_before() -> None:
    folder = BEFORE / "every_figure"
    summary = Summary.read(folder)
    assert dvc_metrics(summary) == json.loads((folder / "metrics.json").read_text())
    rows = {row.model: row for model in summary.models for row in (model, *model.by_seed)}
    told = json.loads((folder / "mlflow_metrics.json").read_text())
    assert {name: model_metrics(rows[name], summary) for name in told} == told


def test_a_summary_of_the_first_versions_can_be_read(tmp_path: Path) -> None:
    content = json.loads((BEFORE / "demo/summary.json").read_text())
    write_json(
        tmp_path / "summary.json",
        {k: v for k, v in content.items() if k not in ("exports", "language_models")},
    )
    summary = Summary.read(tmp_path)
    assert (summary.exports, summary.language_models) == ({}, {})


def test_entries_of_a_later_version_are_left_out(tmp_path: Path) -> None:
    content = json.loads((BEFORE / "demo/summary.json").read_text())
    content["models"][0]["a_figure_of_tomorrow"] = 0.5
    write_json(tmp_path / "summary.json", {**content, "weather": "fine"})
    assert Summary.read(tmp_path) == Summary.read(BEFORE / "demo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"summary\.json: is no JSON \(.*\); it is damaged, run make evaluate again"),
        ("[]", r"summary\.json: : Input should be .*; it is damaged, run make evaluate again"),
        ('{"confidence": "high"}', r"summary\.json: confidence: Input should be a valid number"),
    ],
)
def test_a_damaged_summary_is_named_with_what_to_do(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(StageError, match=message):
        Summary.read(tmp_path)


def test_a_missing_summary_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"summary\.json: no such file; run make run first"):
        Summary.read(tmp_path)


def test_an_estimate_stands_flat_among_other_entries() -> None:
    rate = Estimate(value=0.25, sd=None, low=0.125, high=0.5)
    flat = {"wer": 0.25, "wer_sd": None, "wer_low": 0.125, "wer_high": 0.5}
    assert rate.entries("wer") == flat
    teacher = Summary.read(BEFORE / "demo").teacher
    assert teacher.entries(["wer"]) == teacher.wer.entries("wer")
    assert type(teacher).model_validate({**teacher.entries(), **flat}).wer == rate


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Summary.read(BEFORE / "demo").confidence = 0.5
