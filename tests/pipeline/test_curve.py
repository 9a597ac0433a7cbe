"""`make curve` as a user runs it: once, again with nothing changed, and after a kill."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import CorpusError
from distillery.params.whole import Params
from flows import curve
from flows.stages import pipeline
from tests.pipeline.conftest import kill, run_module, start_module
from tests.pipeline.studies import first_run, logged_runs
from tests.pipeline.test_flow import lock, wait_for, wait_until_nothing_is_left
from tests.tiny import tiny_params

FOLDERS = ("models/curve/students/conv/seed-0", "models/curve/controls/conv/seed-0")


def settings() -> dict[str, Any]:
    params = tiny_params() | {"curve": {"fractions": [0.5, 1.0]}}
    params["distill"]["training"]["num_epochs"] = 2
    return params


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, prefect_of_copies: str) -> Path:
    """A workspace in which `make curve` is the first command that ran."""
    root = tmp_path_factory.mktemp("curve") / "workspace"
    return first_run(root, settings(), "--curve", prefect_of_copies)


def weights(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return time and content of every model's weights."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in (root / "models").rglob("model.safetensors")
    }


def runs(root: Path) -> list[dict[str, Any]]:
    return logged_runs(root, "curve", "student/conv/wer")


def test_the_first_run_makes_what_is_missing_and_leaves_table_picture_and_run(drawn: Path) -> None:
    assert {"prepare", "fetch", "teacher", "cache", "distill@conv-0"} == set(lock(drawn))
    with open(drawn / "reports/curve.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["role"] for row in rows] == ["teacher", *["control", "student"] * 2]
    assert len({row["steps"] for row in rows[1:]}) == 1
    assert (drawn / "reports/curve.png").read_bytes().startswith(b"\x89PNG")
    text = (drawn / "first.log").read_text()
    for words in ("h (50 %)", "h (100 %)", "teacher: WER", "curve.csv", "MLflow run: http"):
        assert words in text, words
    (run,) = runs(drawn)
    assert run["status"] == "FINISHED"
    assert {"curve.csv", "curve.png"} == set(run["artifacts"])
    assert run["steps"] == sorted({round(3600 * float(row["hours"])) for row in rows[1:]})
    assert run["metrics"]["student/conv/wer"] == pytest.approx(float(rows[4]["wer"]))
    assert len(run["tags"]["dvc.data.md5"]) == 32


def test_a_second_run_trains_nothing_and_logs_nothing(drawn: Path) -> None:
    before, table = weights(drawn), (drawn / "reports/curve.csv").read_bytes()
    again = run_module(drawn, "flows.run", "--curve").stdout
    assert "distill@conv-0: unchanged" in again
    assert weights(drawn) == before
    assert (drawn / "reports/curve.csv").read_bytes() == table
    assert len(runs(drawn)) == 1


def test_a_killed_run_goes_on_where_it_stopped(drawn: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn, tmp_path / "copy", symlinks=True))
    expected = {name: content for name, (_, content) in weights(root).items()}
    shutil.rmtree(root / "models/curve")
    process = start_module(root, "tasks.studies.curve")
    student = root / FOLDERS[0] / "50-percent/model.safetensors"
    wait_for(student.exists)
    kill(process)
    wait_until_nothing_is_left(root)
    done = student.stat().st_mtime_ns
    run_module(root, "tasks.studies.curve")
    assert student.stat().st_mtime_ns == done
    assert {name: content for name, (_, content) in weights(root).items()} == expected
    assert (root / "reports/curve.csv").read_bytes() == (drawn / "reports/curve.csv").read_bytes()
    made_from = root / FOLDERS[1] / "50-percent/made_from.json"
    assert json.loads(made_from.read_text())["num_epochs"] == 2


def test_a_share_that_draws_nothing_stops_before_any_stage(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[str] = []
    monkeypatch.setattr(pipeline, "run_stage", lambda root, target, emit: reached.append(target))
    params = Params.model_validate(settings() | {"curve": {"fractions": [0.001, 1.0]}})
    with pytest.raises(CorpusError, match="fractions: 0.001 draws 0 of the 32 training utterances"):
        curve.run(drawn, params, reached.append)
    assert not reached
