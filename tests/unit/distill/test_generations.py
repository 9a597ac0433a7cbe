"""Born-again students on the tiny language of tones: real training, real caches, a real kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distillery.architectures.known import ARCHITECTURES
from distillery.data.manifest import PreparedData
from distillery.distill import generations
from distillery.distill.distillation import Distillation
from distillery.distill.generations import Generations
from distillery.errors import ModelError
from distillery.models.recogniser import Recogniser
from distillery.params.whole import Params
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.store import TeacherCache
from tasks.cache import cache
from tasks.distill import distill
from tests.tiny import tiny_params, write_params
from tests.tiny_workspaces import put_cache


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which prepare, teacher and cache have run."""
    return put_cache(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that a test may change."""
    return Path(shutil.copytree(workspace, tmp_path / "copy"))


def settings(root: Path, count: int, **changes: Any) -> None:
    write_params(root, tiny_params(distill={"generations": count, **changes}))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(root: Path, kind: str = "students") -> bytes:
    return (root / f"models/{kind}/conv/seed-0/model.safetensors").read_bytes()


def by_hand(root: Path, count: int) -> Recogniser:
    """Train generation after generation with the stages, each student laid down as the teacher."""
    settings(root, 1)
    for _ in range(count - 1):
        distill(root, "conv", 0)
        student = Recogniser.load(root / "models/students/conv/seed-0", ARCHITECTURES)
        shutil.rmtree(root / "models/teacher")
        (root / "models/teacher").mkdir()
        student.save(root / "models/teacher")
        generations.fingerprint(student).save(root / "models/teacher")
        cache(root)
    distill(root, "conv", 0)
    return Recogniser.load(root / "models/students/conv/seed-0", ARCHITECTURES)


def test_each_generation_learns_from_the_one_before(copy: Path, tmp_path: Path) -> None:
    """Compare with the plain way: the stages, run again with the student as the teacher."""
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    expected = by_hand(other, 3)
    settings(copy, 3)
    distill(copy, "conv", 0)
    student = Recogniser.load(copy / "models/students/conv/seed-0", ARCHITECTURES)
    assert student.weights_digest == expected.weights_digest
    records = json.loads((copy / "models/students/conv/seed-0/generations.json").read_text())
    assert [record["generation"] for record in records] == [1, 2, 3]
    assert [record["num_epochs"] for record in records] == [3, 3, 3]
    assert [record["num_hypotheses"] for record in records] == [32, 32, 32]
    assert len({record["weights"] for record in records}) == 3
    assert records[-1]["weights"] == student.weights_digest
    # The control learns from transcripts alone, as long as one generation.
    assert weights(copy, "controls") == weights(other, "controls")


def test_all_generations_have_curves_and_only_the_last_ones_bear_no_prefix(copy: Path) -> None:
    settings(copy, 2)
    distill(copy, "conv", 0)
    rows = rows_of(copy / "curves/students/conv/seed-0.jsonl")
    wers = {
        key: [row["value"] for row in rows if row["key"] == key]
        for key in ("generation-1/valid/wer", "valid/wer")
    }
    assert [len(values) for values in wers.values()] == [3, 3]
    records = json.loads((copy / "models/students/conv/seed-0/generations.json").read_text())
    assert [record["valid_wer"] for record in records] == [min(values) for values in wers.values()]
    assert not list((copy / "scratch").glob("generations/*"))
    assert not list((copy / "scratch").glob("*.pt"))


def test_one_generation_leaves_no_trace_of_generations(copy: Path) -> None:
    distill(copy, "conv", 0)
    assert not (copy / "models/students/conv/seed-0/generations.json").exists()
    keys = {row["key"] for row in rows_of(copy / "curves/students/conv/seed-0.jsonl")}
    assert not [key for key in keys if key.startswith("generation")]
    assert not (copy / "scratch/generations").exists()


def test_a_student_that_ignores_its_teacher_has_one_generation(copy: Path) -> None:
    plain = tiny_params()
    conv = plain["distill"]["students"]["conv"]
    students = {"conv": {**conv, "objective": {"teacher_share": 0.0}}, "two": conv}
    settings(copy, 2, students=students)
    distill(copy, "conv", 0)
    assert not (copy / "models/students/conv/seed-0/generations.json").exists()


def test_hidden_states_are_learnt_from_layers_that_teacher_and_student_share(
    copy: Path,
) -> None:
    """A recurrent student of a recurrent teacher: both have layers of these names."""
    crnn = {"type": "crnn", "conv_channels": 4, "hidden_size": 8}
    objective = {"hidden": {"layers": {"recurrent.0": "recurrent.0"}}}
    changes = {"students": {"conv": {"architecture": crnn, "objective": objective}}}
    payload = {"hidden_layers": ["recurrent.0", "project"]}
    plain = tiny_params(cache={"payload": payload}, distill={"generations": 2, **changes})
    write_params(copy, plain)
    cache(copy)
    distill(copy, "conv", 0)
    rows = rows_of(copy / "curves/students/conv/seed-0.jsonl")
    values = [row["value"] for row in rows if row["key"] == "train/hidden"]
    assert len(values) == 3

    plain["distill"]["students"]["conv"]["architecture"] = tiny_params()["distill"]["students"][
        "conv"
    ]["architecture"]
    first_layer = {"hidden": {"layers": {"blocks.0": "recurrent.0"}}}
    plain["distill"]["students"]["conv"]["objective"] = first_layer
    write_params(copy, plain)
    message = (
        r"student 'conv': hidden\.layers learns from the teacher's 'recurrent\.0', but the student,"
        r" who teaches the next generation, has \[.*\]; set generations to 1, or hidden\.weight"
    )
    with pytest.raises(ModelError, match=message):
        distill(copy, "conv", 0)


class Killed(Exception):
    """Stands for a process that ends in the middle of a run."""


def test_a_killed_run_redoes_no_finished_generation(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(copy, 3)
    unbroken = Path(shutil.copytree(copy, tmp_path / "unbroken"))
    distill(unbroken, "conv", 0)

    trained: list[int] = []
    train_student = Distillation.train_student

    def train(self: Distillation, curves: Path) -> Any:
        assert self.generation is not None
        trained.append(self.generation.number)
        if trained == [1, 2]:  # before the second generation's first step
            raise Killed
        return train_student(self, curves)

    monkeypatch.setattr(Distillation, "train_student", train)
    with pytest.raises(Killed):
        distill(copy, "conv", 0)
    assert trained == [1, 2]
    distill(copy, "conv", 0)
    assert trained == [1, 2, 2, 3]
    assert weights(copy) == weights(unbroken)
    assert weights(copy, "controls") == weights(unbroken, "controls")
    one, two = (root / "models/students/conv/seed-0/generations.json" for root in (copy, unbroken))
    assert one.read_bytes() == two.read_bytes()
    keys = [row["key"] for row in rows_of(copy / "curves/students/conv/seed-0.jsonl")]
    expected = [row["key"] for row in rows_of(unbroken / "curves/students/conv/seed-0.jsonl")]
    assert keys == expected


def test_other_settings_do_not_go_on_with_what_was_left(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished generation counts for the settings that it was trained with."""

    def run(**changes: Any) -> Generations:
        settings(copy, 2, **changes)
        everything = Params.load(copy / "params.yaml")
        places = Places.in_workspace(copy)
        first = Distillation(
            PreparedData.open(places.data),
            TeacherCache.open_current(places.cache),
            "conv",
            everything.distill,
            copy / "scratch",
            copy / "models",
        )
        return Generations(first, places.data, everything.cache)

    curves = copy / "curves/students/conv/seed-0.jsonl"
    _, (first,) = run().train_earlier(curves)
    _, (again,) = run().train_earlier(curves)
    assert first == again
    assert len(list((copy / "scratch/generations/conv-0").glob("1-*"))) == 1
    _, (other,) = run(objective={"teacher_share": 0.9}).train_earlier(curves)
    assert other.weights != first.weights
    assert len(list((copy / "scratch/generations/conv-0").glob("1-*"))) == 2


@pytest.mark.parametrize(
    ("known", "count", "changes"),
    [
        (True, 1, {}),
        (True, 3, {}),  # nothing is filtered
        (True, 1, {"filter": {}}),
        (False, 3, {"filter": {}}),  # each generation's texts may be dropped in other utterances
        (False, 1, {"training": {**tiny_params()["distill"]["training"], "patience": 2}}),
        (True, 1, {"training": {"num_epochs": "auto", "patience": 2}}),  # each finds its own end
    ],
)
def test_a_control_comes_first_only_where_its_steps_are_known(
    workspace: Path, known: bool, count: int, changes: dict[str, Any]
) -> None:
    wanted = Params.model_validate(tiny_params(distill={"generations": count, **changes}))
    places = Places.in_workspace(workspace)
    run = Distillation(
        PreparedData.open(places.data),
        TeacherCache.open_current(places.cache),
        "conv",
        wanted.distill,
        workspace / "scratch",
    )
    assert Generations(run, places.data, wanted.cache).steps_are_known == known
