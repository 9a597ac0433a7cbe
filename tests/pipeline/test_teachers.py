"""`make teachers` as a user runs it: the first command in a workspace, and once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import run_module
from tests.pipeline.studies import first_run, logged_runs
from tests.pipeline.test_flow import lock
from tests.tiny import tiny_params


def settings() -> dict[str, Any]:
    """Return settings with a teacher that cannot be had, and two candidates beside it."""
    plain = tiny_params()
    brief = {**plain["distill"]["training"], "num_epochs": 1}
    plain["distill"]["training"] = brief
    other = {**plain["teacher"], "kind": "trained", "training": {**brief, "seed": 7}}
    lost = {"kind": "registry", "model": "models:/nobody@champion"}
    pilot = {"num_epochs": 1, "fraction": 0.5}
    return plain | {
        "teacher_candidates": {"teachers": {"other": other, "lost": lost}, "pilot": pilot}
    }


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, prefect_of_copies: str) -> Path:
    """A workspace in which `make teachers` is the first command that ran."""
    root = tmp_path_factory.mktemp("teachers") / "workspace"
    return first_run(root, settings(), "--teachers", prefect_of_copies)


def runs(root: Path) -> list[dict[str, Any]]:
    return logged_runs(root, "teachers", "other/wer")


def test_the_first_run_makes_what_is_missing_and_leaves_table_picture_and_run(
    compared: Path,
) -> None:
    assert {"prepare", "fetch", "teacher", "cache"} == set(lock(compared))  # nothing is distilled
    text = (compared / "first.log").read_text()
    for words in (
        "Validation split: ",
        "best teacher: ",
        "lost: cannot work: ",
        "MLflow run: http",
    ):
        assert words in text, words
    summary = json.loads((compared / "reports/teachers.json").read_text())
    found = {row["name"]: row for row in summary["candidates"]}
    assert set(found) == {"teacher", "other", "lost"}
    assert "nobody" in found["lost"]["problem"]
    (run,) = runs(compared)
    assert run["status"] == "FINISHED"
    assert set(run["artifacts"]) == {"teachers.csv", "teachers.json", "teachers.png"}
    assert run["metrics"]["other/wer"] == pytest.approx(found["other"]["wer"])
    assert run["metrics"]["teacher/pilot_gain_wer"] == pytest.approx(
        found["teacher"]["pilot"]["gain_wer"]
    )
    assert "best teacher: " in run["tags"]["mlflow.note.content"]
    assert run["params"]["teacher_candidates.pilot.fraction"] == "0.5"


def test_a_second_run_makes_nothing_and_logs_nothing(compared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in compared.glob("scratch/teachers/**/*.json")}
    table = (compared / "reports/teachers.csv").read_bytes()
    again = run_module(compared, "flows.run", "--teachers").stdout
    assert "teacher: unchanged" in again
    after = {path: path.stat().st_mtime_ns for path in compared.glob("scratch/teachers/**/*.json")}
    assert after == before
    assert (compared / "reports/teachers.csv").read_bytes() == table
    assert len(runs(compared)) == 1
