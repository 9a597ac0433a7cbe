"""Teachers compared on the tiny language of tones: what is made, what is kept, what fails alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData, labelled
from distillery.errors import CorpusError
from distillery.models.recogniser import Recogniser
from distillery.tracking.fetched import put_model
from distillery.training.trainer import Trainer
from tasks.cache import cache
from tasks.distill import distill
from tasks.prepare import prepare
from tasks.studies import trial
from tasks.studies.teachers import teachers
from tasks.teacher import teacher
from tests.tiny import copy_code, tiny_params, write_corpus, write_params
from tests.unit.studies.conftest import Interrupt

EPOCHS = tiny_params()["distill"]["training"]["num_epochs"]
STUDENT, CONTROL = "student conv seed 0", "control conv seed 0"


def conformer(**training: Any) -> dict[str, Any]:
    """Return a teacher of another architecture, and of another frame rate than the student's."""
    own = tiny_params()["teacher"]
    sizes = {"conv_channels": 4, "model_size": 16, "num_heads": 2, "num_layers": 1}
    architecture = {"type": "conformer", **sizes, "kernel_size": 3, "time_reduction": 2}
    return {
        "kind": "trained",
        "architecture": architecture,
        "features": own["features"],
        "training": {**own["training"], **training},
    }


def settings(changed: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return settings with candidates; `changed` is the Conformer's training."""
    plain, other = tiny_params(), conformer(**(changed or {}))
    plain["distill"]["objective"] = {"frame": {"weight": 1.0}}
    return plain | {
        "teacher_candidates": {
            "teachers": {
                "both": {"kind": "ensemble", "members": [plain["teacher"], other]},
                "conformer": other,
                "student": {"kind": "registry", "model": "models:/tiny@champion"},
                "nobody": {"kind": "registry", "model": "models:/nobody@champion"},
            },
            "pilot": {"num_epochs": EPOCHS},
        }
    }


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose candidates are compared; its code is a copy that a test may change."""
    root = tmp_path_factory.mktemp("teachers") / "workspace"
    copy_code(root)
    write_corpus(root / "corpus")
    write_params(root, settings())
    for stage in (prepare, teacher, cache):
        stage(root)
    distill(root, "conv", 0)
    fetched = root / "scratch/teachers/student/registered/teacher"
    model = "models:/tiny@champion"
    put_model(root / "models/students/conv/seed-0", fetched, model, ("tiny", "1"), "digest")
    teachers(root)
    return root


@pytest.fixture
def copy(compared: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that a test may change."""
    return Path(shutil.copytree(compared, tmp_path / "copy"))


def summary(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "reports/teachers.json").read_text()))


def rows(root: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in summary(root)["candidates"]}


def test_every_candidate_has_its_figures(compared: Path) -> None:
    found = rows(compared)
    assert set(found) == {"teacher", "conformer", "both", "student", "nobody"}
    for name in ("teacher", "conformer", "both", "student"):
        row = found[name]
        assert row["problem"] is None and row["pilot_problem"] is None, row
        assert row["seconds_per_hour"] > 0 and row["cache_bytes_per_hour"] > 0
        assert row["pilot"]["gain_wer"] == pytest.approx(
            row["pilot"]["control_wer"] - row["pilot"]["student_wer"]
        )
        folder = "models/teacher" if name == "teacher" else f"scratch/teachers/{name}/teacher"
        content = json.loads((compared / folder / "validation.json").read_text())
        assert row["wer"] == pytest.approx(content["wer"])
    assert list(found)[-1] == "nobody"
    assert "models:/nobody@champion has not been fetched" in found["nobody"]["problem"]
    assert set(summary(compared)["disagreement"]) == {"teacher", "conformer", "both", "student"}
    # Two frame rates: the ensemble's texts are put to the vote, and there are no frames to learn.
    assert (found["both"]["gives_frames"], found["both"]["calibrated_over"]) == (False, "texts")
    assert found["both"]["pilot"]["learns"] == "sequence"
    assert found["conformer"]["pilot"]["learns"] == "frame, sequence"


def test_a_pilot_of_all_data_is_what_the_stage_trains(compared: Path) -> None:
    """The stage's models, loaded and asked again, say what the pilot's have said."""
    data = PreparedData.open(compared / "data/prepared")
    audio = [data.waveform(row) for row in labelled(data, "valid").itertuples()]
    (control,) = (compared / "scratch/teachers/controls").iterdir()
    pilot = compared / "scratch/teachers/teacher/pilot-seed-0.json"
    for group, file in (("students", pilot), ("controls", control)):
        folder = compared / "models" / group / "conv/seed-0"
        model = Recogniser.load(folder, ARCHITECTURES)
        assert json.loads(file.read_text())["texts"] == model.transcribe(audio)


def test_the_configured_teacher_and_its_cache_stay_as_they_are(compared: Path) -> None:
    for name in ("models/teacher", "data/teacher_cache"):
        assert (compared / name).stat().st_mtime < (
            compared / "scratch/teachers/conformer/heard.json"
        ).stat().st_mtime
    kept = {path.name for path in (compared / "scratch/teachers/teacher").iterdir()}
    assert kept == {"heard.json", "pilot-seed-0.json"}


def test_a_second_time_makes_nothing(
    compared: Path, copy: Path, epochs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(trial, "load_teacher", lambda folder, device: asked.append(folder))
    teachers(copy)
    assert not epochs and not asked
    before, after = ((root / "reports/teachers.csv").read_text() for root in (compared, copy))
    assert after.replace(str(copy), str(compared)) == before  # an error names the folder


def test_another_setting_makes_anew_what_reads_it_and_trains_no_teacher_twice(
    copy: Path, epochs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(copy, settings({"seed": 5}) | {"training": {"checkpoint_seconds": 77.0}})
    times: set[float] = set()
    fit = Trainer.fit
    monkeypatch.setattr(
        Trainer, "fit", lambda run: (times.add(run.checkpoint_seconds), fit(run))[1]
    )
    teachers(copy)
    assert times == {77.0}
    # The Conformer, then a student of it and one of the ensemble, whose members are there already.
    assert epochs == ["teacher"] * EPOCHS + [STUDENT] * EPOCHS * 2
    assert len(list((copy / "scratch/teachers/conformer/cache").glob("*/"))) == 1


@pytest.mark.parametrize("stopped_after", [1, EPOCHS + 1])
def test_an_interrupted_comparison_goes_on_where_it_stopped(
    copy: Path, epochs: list[str], interrupt: Interrupt, stopped_after: int
) -> None:
    expected = {name: (row.get("wer"), row.get("pilot")) for name, row in rows(copy).items()}
    shutil.rmtree(copy / "scratch/teachers/conformer")
    shutil.rmtree(copy / "scratch/teachers/both")
    for file in (copy / "scratch").glob("teacher-*.pt"):
        file.unlink()  # of the configured one, too, which the ensemble then trains again
    interrupt(stopped_after, lambda: teachers(copy))
    teachers(copy)
    assert epochs == ["teacher"] * EPOCHS * 2 + [STUDENT] * EPOCHS * 2
    found = {name: (row.get("wer"), row.get("pilot")) for name, row in rows(copy).items()}
    assert found == expected
    assert not list((copy / "scratch").glob("[cs]*.pt"))


def test_what_goes_wrong_inside_one_candidate_stops_no_other(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (copy / "scratch/teachers/conformer").glob("*.json"):
        path.unlink()
    examine = trial.examine

    def fails(teacher: Any, *others: Any) -> Any:
        if teacher.network.time_reduction == 2:
            raise MemoryError("no room for 10 GB")
        return examine(teacher, *others)

    monkeypatch.setattr(trial, "examine", fails)
    teachers(copy)
    found = rows(copy)
    assert found["conformer"]["problem"] == "MemoryError: no room for 10 GB"
    assert "pilot" in found["teacher"] and "pilot" in found["student"]


def test_candidates_that_could_not_be_fetched_are_listed_with_the_reason(copy: Path) -> None:
    teachers(copy, {"nobody": "MLflow at http://nowhere: does not answer"})
    assert rows(copy)["nobody"]["problem"] == "MLflow at http://nowhere: does not answer"


def test_a_share_without_transcripts_stops_before_anything_is_made(
    copy: Path, epochs: list[str]
) -> None:
    wanted = settings()
    wanted["teacher_candidates"]["pilot"]["fraction"] = 0.001
    write_params(copy, wanted)
    with pytest.raises(CorpusError, match="pilot.fraction: 0.001 draws no transcribed"):
        teachers(copy)
    assert not epochs
