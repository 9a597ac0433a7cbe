"""A student whose control is better on validation has its control's weights, and says so."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distillery.data.manifest import PreparedData
from distillery.distill.distillation import Trained
from distillery.distill.fall_back import FELL_BACK_FILE, FellBack, better_control, read_fell_back
from distillery.distill.generations import GENERATIONS_FILE
from distillery.distill.start import SlicedTeacher
from distillery.errors import ModelError
from distillery.evaluate.curves import best_valid_wer, read_curves
from distillery.evaluate.summary import PREDICTIONS_FILE, Summary
from distillery.evaluate.tables import markdown_table, remarks
from distillery.params.distill import DistillParams
from distillery.params.whole import Params
from distillery.register.descriptions import LINEAGE
from distillery.register.pipeline_results import PipelineResults
from distillery.register.register import _candidates
from distillery.register.runs import data_sources, log_model_runs
from distillery.tracking.store import FELL_BACK_TAG, Tracking
from tasks.cache import cache
from tasks.distill import _Job, distill
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.register import open_run
from tasks.teacher import teacher
from tests.stores import put_mlflow
from tests.tiny import tiny_params, write_corpus, write_params
from tests.tiny_students import talking_student

STUDENT, CONTROL = "models/students/conv/seed-0", "models/controls/conv/seed-0"
WRONG = "cc cc cc"
"""Of every recording, where a teacher or the transcripts are of no use."""
ALONE = {"teacher_share": 1.0, "frame": {"weight": 0.0}, "sequence": {"weight": 1.0}}
"""The teacher's texts, and no transcripts."""
NETWORK = {"type": "separable_conv", "channels": 32, "num_blocks": 2, "kernel_size": 5}
TRAINING = {"num_epochs": 15, "batch_seconds": 4.0, "learning_rate": 1e-2, "num_threads": 1}
"""Enough to learn the language of tones in part."""


def settings(**changes: Any) -> dict[str, Any]:
    students = {"conv": {"architecture": NETWORK}}
    own = {"students": students, "training": TRAINING, "objective": ALONE, "fall_back": True}
    params = tiny_params(distill={**own, **changes})
    params["teacher"] = {"kind": "texts", "file": "said.jsonl", "allow_poor": True}
    return params


def put_texts(root: Path, *, teacher_is_right: bool) -> Path:
    """Prepare and cache a corpus of which either the teacher or the transcripts are right."""
    write_corpus(root / "corpus")
    manifest = root / "corpus/manifest.csv"
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    said = [
        {"path": row["path"], "text": row["text"] if teacher_is_right else WRONG} for row in rows
    ]
    (root / "said.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in said))
    if teacher_is_right:
        frame = pd.DataFrame(rows)
        frame.loc[frame["split"] == "train", "text"] = WRONG
        frame.to_csv(manifest, index=False)
    write_params(root, settings())
    prepare(root)
    teacher(root)
    cache(root)
    return root


@pytest.fixture(scope="module")
def useless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose teacher writes the same of everything."""
    return put_texts(tmp_path_factory.mktemp("useless"), teacher_is_right=False)


def distilled(workspace: Path, root: Path, **changes: Any) -> Path:
    """Return a copy of a workspace in which the student is trained, under changed settings."""
    shutil.copytree(workspace, root, dirs_exist_ok=True)
    write_params(root, settings(**changes))
    distill(root, "conv", 0)
    return root


@pytest.fixture(scope="module")
def fallen(useless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose student learnt from that teacher alone."""
    return distilled(useless, tmp_path_factory.mktemp("fallen"))


def weights(root: Path, model: str) -> bytes:
    return (root / model / "model.safetensors").read_bytes()


def valid_wer(root: Path, role: str) -> float:
    found = best_valid_wer(read_curves(root / f"curves/{role}/conv/seed-0.jsonl"))
    assert found is not None
    return found


def test_a_student_that_is_worse_has_its_controls_weights_to_the_byte(fallen: Path) -> None:
    assert weights(fallen, STUDENT) == weights(fallen, CONTROL)
    found = read_fell_back(fallen / STUDENT)
    assert found == FellBack(valid_wer(fallen, "students"), valid_wer(fallen, "controls"))
    assert found.control_valid_wer < found.student_valid_wer
    assert read_fell_back(fallen / CONTROL) is None
    assert not list((fallen / "scratch").glob("*.pt"))


def test_switched_off_the_student_keeps_its_own(
    useless: Path, fallen: Path, tmp_path: Path
) -> None:
    root = distilled(useless, tmp_path, fall_back=False)
    assert valid_wer(root, "controls") < valid_wer(root, "students")
    assert weights(root, STUDENT) != weights(root, CONTROL)
    assert weights(root, CONTROL) == weights(fallen, CONTROL), "the rule changes no training"
    assert read_fell_back(root / STUDENT) is None


def test_without_a_control_the_student_keeps_its_own(useless: Path, tmp_path: Path) -> None:
    root = distilled(useless, tmp_path, control=False, training={**TRAINING, "num_epochs": 1})
    assert (root / STUDENT / "model.safetensors").exists()
    assert read_fell_back(root / STUDENT) is None


def test_the_last_of_several_generations_is_compared(useless: Path, tmp_path: Path) -> None:
    root = distilled(useless, tmp_path, generations=2)
    records = json.loads((root / STUDENT / GENERATIONS_FILE).read_text())
    found = read_fell_back(root / STUDENT)
    assert found is not None
    assert found.student_valid_wer == records[-1]["valid_wer"]
    assert weights(root, STUDENT) == weights(root, CONTROL)


def test_a_student_that_is_better_keeps_its_own(tmp_path: Path) -> None:
    """Its control learns from transcripts that say the same of everything."""
    put_texts(tmp_path, teacher_is_right=True)
    distill(tmp_path, "conv", 0)
    assert valid_wer(tmp_path, "students") < valid_wer(tmp_path, "controls")
    assert weights(tmp_path, STUDENT) != weights(tmp_path, CONTROL)
    assert read_fell_back(tmp_path / STUDENT) is None


@pytest.fixture(scope="module")
def evaluated(fallen: Path) -> Path:
    """The same workspace, evaluated."""
    evaluate(fallen)
    return fallen


def test_tables_and_metrics_say_so(evaluated: Path) -> None:
    fallen, summary = evaluated, Summary.read(evaluated / "reports/evaluation")
    row, found = summary.students["conv"], read_fell_back(fallen / STUDENT)
    assert found is not None
    assert (row.fell_back, row.valid_wer) == (1.0, found.control_valid_wer)
    assert row.valid_wer_as_trained == found.student_valid_wer
    assert (summary.teacher.fell_back, summary.controls["conv"].fell_back) == (None, None)
    assert row.wer == summary.controls["conv"].wer
    mine, own = (100 * rate for rate in (found.control_valid_wer, found.student_valid_wer))
    line = (
        f"conv: its control was better on validation ({mine:.1f} % against {own:.1f} %), so the "
        "student has the control's weights; distillation gained nothing"
    )
    assert line in remarks(summary)
    assert f"- {line}" in markdown_table(summary)
    told = json.loads((fallen / "reports/metrics.json").read_text())["students"]["conv"]
    assert told["fell_back"] == 1.0
    assert told["valid_wer_as_trained"] == found.student_valid_wer


def test_mlflow_and_the_registry_are_told(evaluated: Path) -> None:
    fallen = evaluated
    params = Params.load(fallen / "params.yaml")
    summary = Summary.read(fallen / "reports/evaluation")
    outputs = ("data/prepared", "models/teacher", STUDENT, CONTROL)
    lineage = dict.fromkeys([*LINEAGE.values(), "git.dirty"], "0123456789ab")
    results = PipelineResults(
        fallen, params, summary, dict.fromkeys(outputs, "0123456789ab"), lineage, []
    )
    tracking = Tracking(params.register, put_mlflow(fallen))
    parent = open_run(tracking, fallen, params)
    data = data_sources(PreparedData.open(fallen / "data/prepared"), results)
    predictions = pd.read_parquet(fallen / "reports/evaluation" / PREDICTIONS_FILE)
    runs = log_model_runs(tracking, parent, results, data, predictions)
    student, control = (
        tracking.client.get_run(runs[f"{role}/conv/seed-0"]).data
        for role in ("students", "controls")
    )
    assert student.tags[FELL_BACK_TAG] == "yes"
    assert FELL_BACK_TAG not in control.tags
    assert student.metrics["valid/fell_back"] == 1.0
    assert student.metrics["valid/best_wer"] == control.metrics["valid/best_wer"]
    assert student.metrics["valid/wer_as_trained"] > student.metrics["valid/best_wer"]
    (candidate,) = _candidates(results, runs, "0123")
    assert candidate.tags[FELL_BACK_TAG] == "yes"
    assert "with the weights of its control" in candidate.description


def test_a_student_that_began_as_its_teacher_falls_back_to_where_its_control_began(
    useless: Path, tmp_path: Path
) -> None:
    job = _Job.of(useless, "conv", 0)
    model, other = talking_student(0), talking_student(1)
    begun = SlicedTeacher("teacher", "0123", [0])
    student = Trained(model, 15, tmp_path / "student.pt", begun, valid_wer=0.5)
    control = Trained(other, 15, tmp_path / "control.pt", valid_wer=0.4)
    kept, found = job.keep(student, control)
    assert found == FellBack(0.5, 0.4)
    assert (kept.recogniser, kept.init, kept.checkpoint) == (other, None, student.checkpoint)
    for equal_or_none in (replace(control, valid_wer=0.5), None):
        assert job.keep(student, equal_or_none) == (student, None)


def test_equal_rates_keep_the_student() -> None:
    assert better_control(0.2, 0.2) is None
    assert better_control(0.2, 0.3) is None
    assert better_control(0.2, 0.1) == FellBack(0.2, 0.1)


def test_a_damaged_note_is_an_error(tmp_path: Path) -> None:
    (tmp_path / FELL_BACK_FILE).write_text('{"student_valid_wer": 0.5}')
    with pytest.raises(ModelError, match="control_valid_wer.*run make distill again"):
        read_fell_back(tmp_path)


def test_the_rule_is_the_default_and_changes_the_name_of_no_training() -> None:
    content = tiny_params()["distill"]
    on, off = ({**content, "fall_back": value} for value in (True, False))
    del content["fall_back"]
    assert DistillParams.model_validate(content).fall_back
    dumps = [DistillParams.model_validate(item).model_dump() for item in (on, off)]
    assert dumps[0] == dumps[1]
