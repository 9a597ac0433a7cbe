"""Curves trained on the tiny language of tones: what is trained again, and what is not."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile

from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError, StageError, TrackingError
from distillery.params.whole import Params
from distillery.studies.data_curve import CurveModel
from distillery.tracking.store import Tracking
from distillery.training.trainer import Trainer
from tasks.cache import cache
from tasks.distill import distill
from tasks.prepare import prepare
from tasks.studies.curve import CurveStudy, curve, log_curve
from tasks.teacher import teacher
from tests.tiny import RATE_HZ, copy_code, speak, tiny_params, write_corpus, write_params
from tests.unit.studies.conftest import Interrupt

CURVE: dict[str, Any] = {"fractions": [0.5, 1.0]}
NUM_EPOCHS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose curves are drawn; its code is a copy that a test may change."""
    root = tmp_path_factory.mktemp("curve") / "workspace"
    copy_code(root)
    write_corpus(root / "corpus", unlabelled=1)
    write_params(root, with_curve())
    for stage in (prepare, teacher, cache):
        stage(root)
    distill(root, "conv", 0)
    curve(root)
    return root


def with_curve(**changes: Any) -> dict[str, Any]:
    """Return the tiny settings with curves; `changes` are sections, as in tiny_params."""
    wanted = {**CURVE, **changes.pop("curve", {})}
    return tiny_params(**changes) | {"curve": wanted}


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def model(role: str, fraction: float = 0.5, seed: int = 0) -> CurveModel:
    return CurveModel(role, "conv", seed, fraction)


def weights(root: Path, of: CurveModel) -> bytes:
    return (of.folder(root) / "model.safetensors").read_bytes()


def rows_of(root: Path) -> list[dict[str, str]]:
    with open(root / "reports/curve.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


STUDENT, CONTROL = "student conv seed 0", "control conv seed 0"


def test_every_share_takes_the_steps_of_all_data(finished: Path) -> None:
    rows = [row for row in rows_of(finished) if row["role"] != "teacher"]
    assert [(row["role"], row["fraction"]) for row in rows] == [
        ("control", "0.500000"),
        ("student", "0.500000"),
        ("control", "1.000000"),
        ("student", "1.000000"),
    ]
    lines = (finished / "curves/students/conv/seed-0.jsonl").read_text().splitlines()
    assert {row["steps"] for row in rows} == {str(json.loads(lines[-1])["step"])}
    assert int(rows[0]["utterances"]) < int(rows[2]["utterances"]) == 32
    assert float(rows[2]["transcribed_hours"]) == pytest.approx(0.75 * float(rows[2]["hours"]), 0.1)
    assert weights(finished, model("student")) != weights(finished, model("student", 1.0))


def test_a_second_time_trains_nothing(copy: Path, epochs: list[str]) -> None:
    before = (copy / "reports/curve.csv").read_bytes()
    curve(copy)
    assert epochs == []
    assert (copy / "reports/curve.csv").read_bytes() == before


def test_files_that_only_look_new_train_nothing(copy: Path, epochs: list[str]) -> None:
    """Touch what DVC may have put there again."""
    for path in [*(copy / "data").rglob("*"), *(copy / "models/registered").rglob("*")]:
        if path.is_file():
            path.touch()
    curve(copy)
    assert epochs == []


def test_all_data_at_the_pace_of_all_data_is_what_the_stage_trains(copy: Path) -> None:
    settings = Params.load(copy / "params.yaml")
    study = CurveStudy(copy, settings, PreparedData.open(copy / "data/prepared"))
    run = study.run_of(model("student", 1.0))
    assert run.pace is not None
    trained = run.train_student(copy / "again.jsonl")
    (copy / "again").mkdir()
    trained.recogniser.save(copy / "again")
    assert (copy / "again/model.safetensors").read_bytes() == weights(copy, model("student", 1.0))


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"distill": {"seeds": [0]}}, []),
        ({"evaluate": {"num_resamples": 300}}, []),
        ({"curve": {"fractions": [0.5]}}, []),
        ({"curve": {"fractions": [0.5, 0.7, 1.0]}}, [STUDENT, CONTROL]),
    ],
    ids=["same", "resamples", "fewer", "one_more"],
)
def test_only_what_settings_changed_is_trained(
    copy: Path, epochs: list[str], change: dict[str, Any], trained: list[str]
) -> None:
    write_params(copy, with_curve(**change))
    curve(copy)
    assert epochs == [name for name in trained for _ in range(NUM_EPOCHS)]


def test_another_time_between_checkpoints_trains_nothing(copy: Path, epochs: list[str]) -> None:
    write_params(copy, with_curve() | {"training": {"checkpoint_seconds": 77.0}})
    curve(copy)
    assert epochs == []
    settings = Params.load(copy / "params.yaml")
    study = CurveStudy(copy, settings, PreparedData.open(copy / "data/prepared"))
    assert study.run_of(model("student")).checkpoint_seconds == 77


def test_settings_of_training_train_again(copy: Path, epochs: list[str]) -> None:
    settings = with_curve(curve={"fractions": [0.5]})
    settings["distill"]["training"]["learning_rate"] = 1e-3
    write_params(copy, settings)
    curve(copy)
    assert epochs == [STUDENT] * NUM_EPOCHS + [CONTROL] * NUM_EPOCHS


def test_code_that_training_reaches_trains_again(copy: Path, epochs: list[str]) -> None:
    with open(copy / "distillery/evaluate/tables.py", "a") as file:  # reached by evaluating alone
        file.write("# another line\n")
    curve(copy)
    assert epochs == []
    with open(copy / "distillery/losses/kl.py", "a") as file:
        file.write("# another line\n")
    curve(copy)
    assert epochs == [STUDENT] * NUM_EPOCHS + [CONTROL] * NUM_EPOCHS


def test_copies_and_noise_of_the_settings_are_trained_on(copy: Path, epochs: list[str]) -> None:
    noise = copy / "noise/hum.wav"
    noise.parent.mkdir()
    soundfile.write(noise, speak("cc", 1), RATE_HZ)
    settings = with_curve(curve={"fractions": [0.5]}, cache={"speed_factors": [0.9]})
    settings["distill"]["augmentation"] = {"noise": {"folder": "noise"}}
    write_params(copy, settings)
    cache(copy)
    before = num_steps(copy)
    curve(copy)
    assert epochs == [STUDENT] * NUM_EPOCHS + [CONTROL] * NUM_EPOCHS
    assert num_steps(copy) > before  # copies count
    epochs.clear()
    curve(copy)
    assert epochs == []
    soundfile.write(noise, speak("cab", 1), RATE_HZ)
    curve(copy)
    assert epochs == [STUDENT] * NUM_EPOCHS + [CONTROL] * NUM_EPOCHS


def num_steps(root: Path) -> int:
    """Return how many steps the student of the share took."""
    lines = model("student").learning_curve(root).read_text().splitlines()
    return int(json.loads(lines[-1])["step"])


def test_data_that_a_share_holds_train_again(copy: Path, epochs: list[str]) -> None:
    lines = (copy / "corpus/manifest.csv").read_text().splitlines()
    (copy / "corpus/manifest.csv").write_text("\n".join(lines[:-1]) + "\n")
    for stage in (prepare, cache):
        stage(copy)
    distill(copy, "conv", 0)
    epochs.clear()
    curve(copy)
    assert epochs == [STUDENT] * NUM_EPOCHS + [CONTROL] * NUM_EPOCHS


@pytest.mark.parametrize("stopped_after", [1, NUM_EPOCHS, NUM_EPOCHS + 2])
def test_an_interrupted_curve_goes_on_where_it_stopped(
    copy: Path, epochs: list[str], interrupt: Interrupt, stopped_after: int
) -> None:
    expected = {role: weights(copy, model(role)) for role in ("control", "student")}
    table = rows_of(copy)
    shutil.rmtree(copy / "models/curve")
    interrupt(stopped_after, lambda: curve(copy))
    curve(copy)
    assert epochs == [STUDENT] * NUM_EPOCHS + [CONTROL] * NUM_EPOCHS
    assert {role: weights(copy, model(role)) for role in ("control", "student")} == expected
    assert rows_of(copy) == table
    left = {path.name.split("-")[0] for path in (copy / "scratch").glob("*.pt")}
    assert left <= {"teacher"}  # the stage keeps that one


def test_a_change_during_a_training_is_no_result(
    copy: Path, epochs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copy / "models/curve")
    save = Trainer._save

    def edit(self: Trainer) -> None:
        save(self)
        settings = with_curve()
        settings["distill"]["training"]["learning_rate"] = 1e-3
        write_params(copy, settings)

    monkeypatch.setattr(Trainer, "_save", edit)
    with pytest.raises(StageError, match="student conv, 50 %, seed 0: code, settings or data chan"):
        curve(copy)
    monkeypatch.setattr(Trainer, "_save", save)
    write_params(copy, with_curve())
    epochs.clear()
    curve(copy)
    assert epochs == [STUDENT] * NUM_EPOCHS + [CONTROL] * NUM_EPOCHS


def test_a_missing_model_of_all_data_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "models/controls/conv/seed-0")
    with pytest.raises(StageError, match="models/controls/conv/seed-0: holds no control; run make"):
        curve(copy)


def test_an_unfit_share_is_named_before_anything_is_trained(copy: Path, epochs: list[str]) -> None:
    write_params(copy, with_curve(curve={"fractions": [0.001, 0.7]}))
    with pytest.raises(CorpusError, match="fractions: 0.001 draws 0 of the 32 training utterances"):
        curve(copy)
    assert epochs == []


def test_generations_of_a_student_learn_from_the_share(copy: Path, epochs: list[str]) -> None:
    write_params(copy, with_curve(curve={"fractions": [0.5]}, distill={"generations": 2}))
    curve(copy)
    own = ["student conv generation 1 seed 0", "student conv generation 2 seed 0", CONTROL]
    assert epochs == [name for name in own for _ in range(NUM_EPOCHS)]
    lines = (model("student").learning_curve(copy)).read_text().splitlines()
    assert json.loads(lines[0])["key"].startswith("generation-1/")
    assert not (copy / "scratch/generations/conv-0").exists()


def test_a_dead_mlflow_costs_nothing_and_says_what_to_do(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = {**tiny_params()["register"], "tracking_uri": "http://127.0.0.1:9"}
    write_params(copy, with_curve(register=dead))
    results = curve(copy)
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:9.* run make curve$"):
        log_curve(copy, results)
    assert (copy / "reports/curve.png").exists()


LOCK = """
stages:
  prepare: {outs: [{path: data/prepared, md5: 0123456789abcdef.dir}]}
  teacher: {outs: [{path: models/teacher, md5: fedcba9876543210.dir}]}
"""


def test_a_curve_whose_logging_broke_off_is_logged_into_the_same_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "dvc.lock").write_text(LOCK)
    results = curve(copy)
    end_run = Tracking.end_run

    def break_off(self: Tracking, run: str, status: str = "FINISHED") -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(Tracking, "end_run", break_off)
    with pytest.raises(TrackingError, match="the network is down.* run make curve$"):
        log_curve(copy, results)
    monkeypatch.setattr(Tracking, "end_run", end_run)
    first, second = log_curve(copy, results), log_curve(copy, results)
    assert first == second
    client = Tracking(Params.load(copy / "params.yaml").register, copy).client
    found = client.search_runs([first.experiment_id])
    assert [run.info.run_id for run in found] == [first.run_id]
    assert found[0].info.status == "FINISHED"
    assert found[0].data.tags["dvc.teacher.md5"] == "fedcba9876543210"
    write_params(copy, with_curve(evaluate={"num_resamples": 300}))
    assert log_curve(copy, results).run_id != first.run_id
