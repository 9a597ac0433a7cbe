"""From recordings to a champion: a worse student does not take its place, a better one does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from distillery.commands.champion import champion_report
from distillery.params.whole import Params
from distillery.register.aliases import Aliases, read_aliases, rollback
from distillery.register.gate.verdict import markdown, read_verdict, render
from distillery.register.registered import Registered
from distillery.tracking.store import Tracking
from distillery.tracking.versions import checked_folder
from flows.looking_back.results import read_summary, text
from tasks.cache import cache
from tasks.distill import distill
from tasks.evaluate import evaluate
from tasks.fetch import fetch
from tasks.lineage import RESULTS
from tasks.prepare import prepare
from tasks.register import register
from tasks.teacher import teacher
from tests.stores import put_mlflow
from tests.tiny import copy_code, tiny_params, write_corpus, write_params

STUDENT = "models/students/conv/seed-{seed}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the cache of a teacher that says nothing."""
    root = put_mlflow(tmp_path_factory.mktemp("workspace"))
    copy_code(root)
    write_corpus(root / "corpus", per_speaker=8)
    write_params(root, tiny_params())
    for stage in (prepare, fetch, teacher, cache):
        stage(root)
    return root


def train(root: Path, seed: int, num_epochs: int) -> Registered:
    """Train a student that tells letters apart after some twenty epochs, and register it."""
    settings = tiny_params(distill={"seeds": [seed], "control": False})
    settings["distill"]["training"]["num_epochs"] = num_epochs
    settings["distill"]["objective"] = {"teacher_share": 0.0}
    write_params(root, settings)
    distill(root, "conv", seed)
    evaluate(root)
    lock(root, STUDENT.format(seed=seed))
    return register(root)


def lock(root: Path, *models: str) -> None:
    """Write what of dvc.lock tells versions apart."""
    outs = [{"path": path, "md5": "0" * 32} for path in RESULTS]
    for model in models:
        weights = (root / model / "model.safetensors").read_bytes()
        outs.append({"path": model, "md5": hashlib.md5(weights).hexdigest()})
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))


def test_a_worse_student_stays_challenger_and_a_better_one_becomes_champion(root: Path) -> None:
    tracking = Tracking(Params.model_validate(tiny_params()).register, root)

    first = train(root, seed=0, num_epochs=1)
    assert (first.version, first.alias) == ("1", "champion")
    better = train(root, seed=0, num_epochs=40)
    assert (better.version, better.alias) == ("2", "champion")
    assert read_aliases(tracking, "tiny") == Aliases("2", "1", None)
    worse = train(root, seed=1, num_epochs=1)
    assert (worse.version, worse.alias) == ("3", "challenger")
    assert read_aliases(tracking, "tiny") == Aliases("2", "1", "3")

    verdict = read_verdict(root)
    assert verdict is not None
    assert verdict.against == "2"
    assert {"wer", "wer_interval"} <= {item.rule for item in verdict.failed}
    judged = {item.form: item.binding for item in verdict.rulings if item.rule == "wer"}
    assert judged == {"torch": True, "onnx": True, "onnx-int8": False}  # onnx is served
    summary = json.loads((root / "reports/evaluation/summary.json").read_text())
    (student,) = (row for row in summary["models"] if row["role"] == "student")
    assert verdict.wer == student["wer"]
    version = tracking.client.get_model_version("tiny", "2")
    assert verdict.against_wer == float(version.tags["test.wer"])  # heard again: the same
    run = tracking.client.get_run(worse.parent_run)
    assert run.data.tags["gate.alias"] == "challenger"
    assert run.data.tags["gate.against"] == "2"
    assert run.data.metrics["gate/torch/wer"] > 0
    assert run.data.metrics["gate/champion_wer"] == verdict.against_wer
    kept = [item.path for item in tracking.client.list_artifacts(run.info.run_id)]
    assert "gate.json" in kept
    shown = text(read_summary(root), worse, verdict)
    assert render(verdict) in shown
    assert "| wer | torch |" in markdown(verdict)

    rollback(tracking, "tiny")
    again = train(root, seed=0, num_epochs=40)
    assert (again.version, again.alias) == ("2", "previous")  # it waits for a person
    assert read_aliases(tracking, "tiny") == Aliases("1", "2", "3")


def test_a_control_takes_the_place_of_a_student_that_learnt_nothing(root: Path) -> None:
    """Its teacher says nothing, and so does the student that hears nobody else."""
    settings = tiny_params(
        distill={"objective": {"teacher_share": 1.0, "frame": {"weight": 0}, "sequence": {}}}
    )
    settings["distill"]["training"]["num_epochs"] = 40
    settings["register"] |= {"model_name": "beaten"}
    settings["register"]["gate"] |= {"max_wer": 0.95}
    write_params(root, settings)
    distill(root, "conv", 0)
    evaluate(root)
    models = [f"models/{role}s/conv/seed-0" for role in ("student", "control")]
    lock(root, *models)
    said = read_summary(root).comparisons["conv"].verdict
    assert "the student learnt nothing" in said and "significantly worse" in said
    for _ in range(2):  # to register it again changes nothing
        registered = register(root)
        assert registered.versions == {"conv": "1", "control conv": "2"}
        assert (registered.version, registered.alias) == ("2", "champion")
        assert (registered.role, registered.student) == ("control", "conv")
        assert registered.champion == "2"
        put_up = "the control of student conv was put up instead of student conv, which is signif"
        assert registered.reason.startswith(f"the first champion; {put_up}")
    tracking = Tracking(Params.model_validate(settings).register, root)
    student, control = (tracking.client.get_model_version("beaten", number) for number in "12")
    assert student.tags["gate.reason"].startswith("never put up: student conv, which is signific")
    assert control.tags["role"] == "control"
    run = tracking.client.get_run(registered.parent_run)
    assert run.data.tags["registered.role"] == "control"
    assert "The control of student `conv` from seed 0" in run.data.tags["mlflow.note.content"]
    shown = text(read_summary(root), registered, read_verdict(root))
    assert "(the control of student conv, seed 0) is champion" in " ".join(shown.split())
    assert "control of conv" in champion_report(tracking, "beaten")
    folder = checked_folder(tracking, "models:/beaten@champion")
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (root / models[1] / "model.safetensors").read_bytes()
