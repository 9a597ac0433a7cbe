"""Registered models, from a real registry into workspaces: the command, the flow, and DVC alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from distillery.errors import ModelError, TrackingError
from distillery.models.fingerprint import read_fingerprint
from distillery.params.whole import Params
from distillery.tracking.fetched import check_model, read_source
from distillery.tracking.store import Tracking
from distillery.tracking.versions import CHAMPION, Candidate, register_version
from flows import distillation
from flows.fetch import fetch, fetch_teacher, readers_that_run_anyway
from tests.pipeline import prefect_api
from tests.pipeline.conftest import ROOT, make_workspace, run_module
from tests.stores import put_mlflow
from tests.tiny import tiny_params, write_params
from tests.unit.tracking.test_fetched import recogniser

ALIAS = "models:/tiny@champion"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose registry holds two versions; the first is champion."""
    root = put_mlflow(tmp_path_factory.mktemp("shop"))
    tracking = Tracking(Params.model_validate(tiny_params()).register, root)
    for seed in (1, 2):
        folder = root / f"student-{seed}"
        folder.mkdir()
        recogniser(seed).save(folder)
        register_version(
            tracking,
            "tiny",
            Candidate(
                name="conv",
                seed=0,
                folder=folder,
                md5=str(seed) * 32,
                run=tracking.create_run("conv", {}),
                description="a student",
                tags={},
                test_digest="t",
                test_wer=0.5,
                valid_wer=0.5,
                num_parameters=1,
            ),
        )
    set_champion(root, "1")
    return root


def set_champion(root: Path, version: str) -> None:
    tracking = Tracking(Params.model_validate(tiny_params()).register, root)
    tracking.client.set_registered_model_alias("tiny", CHAMPION, version)


@pytest.fixture
def bare(shop: Path) -> Path:
    """The shop with nothing fetched and the first version as champion."""
    shutil.rmtree(shop / "models", ignore_errors=True)
    set_champion(shop, "1")
    return shop


def settings(**changes: Any) -> Params:
    """Return settings whose student goes on from the champion."""
    plain = tiny_params(**changes)
    plain["distill"]["students"]["conv"]["init"] = ALIAS
    return Params.model_validate(plain)


def held(root: Path, reader: str = "students/conv") -> str:
    source = read_source(root / "models/registered" / reader)
    assert source is not None
    return source.version


def test_what_is_not_here_is_fetched_and_stays_when_its_alias_moves(bare: Path) -> None:
    assert fetch(bare, settings(), follow=()) == [f"students/conv: {ALIAS} is version 1, fetched"]
    folder = bare / "models/registered/students/conv"
    check_model(folder, ALIAS, "conv")
    wanted = bare / "student-1/model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == wanted.read_bytes()
    set_champion(bare, "2")
    assert fetch(bare, settings(), follow=()) == []
    assert held(bare) == "1"


def test_an_alias_is_followed_for_those_that_run_anyway_and_by_the_command(bare: Path) -> None:
    teacher = {"kind": "registry", "model": ALIAS}
    both = Params.model_validate(settings().model_dump() | {"teacher": teacher})
    fetch(bare, both, follow=())
    set_champion(bare, "2")
    assert fetch(bare, both, follow=["teacher"]) == [f"teacher: {ALIAS} is version 2, fetched"]
    assert (held(bare, "teacher"), held(bare)) == ("2", "1")
    assert fetch(bare, both) == [
        f"teacher: {ALIAS} is version 2, as before",
        f"students/conv: {ALIAS} is version 2, fetched",
    ]


def test_a_candidate_for_the_teacher_is_fetched_alone_and_follows_its_alias(
    bare: Path, tmp_path: Path
) -> None:
    teacher = {"kind": "registry", "model": ALIAS}
    wanted = Params.model_validate(settings().model_dump() | {"teacher": teacher})
    base = tmp_path / "candidate"
    assert fetch_teacher(bare, wanted, base) == [f"teacher: {ALIAS} is version 1, fetched"]
    set_champion(bare, "2")
    assert fetch_teacher(bare, wanted, base) == [f"teacher: {ALIAS} is version 2, fetched"]
    assert [path.name for path in base.iterdir()] == ["teacher"]
    assert not (bare / "models/registered").exists()
    trained = Params.model_validate(settings().model_dump())
    assert fetch_teacher(bare, trained, base) == []


def test_a_damaged_copy_is_fetched_again(bare: Path) -> None:
    fetch(bare, settings(), follow=())
    (bare / "models/registered/students/conv/config.json").write_text("{}")
    assert fetch(bare, settings(), follow=()) == [f"students/conv: {ALIAS} is version 1, fetched"]


def test_a_copy_stays_where_mlflow_cannot_be_asked_unless_the_command_wants_it(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # test_tracking.py waits for them
    fetch(bare, settings(), follow=())
    dead = settings(register={"tracking_uri": "http://127.0.0.1:9"})
    (line,) = fetch(bare, dead, follow=["students/conv"])
    assert line.startswith(
        f"students/conv: {ALIAS} stays version 1, for MLflow at http://127.0.0.1"
    )
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:9"):
        fetch(bare, dead)
    shutil.rmtree(bare / "models")
    with pytest.raises(TrackingError, match=r"MLflow at http://127\.0\.0\.1:9"):
        fetch(bare, dead, follow=())


def test_a_model_that_is_not_registered_is_named(bare: Path) -> None:
    plain = tiny_params()
    plain["distill"]["students"]["conv"]["init"] = "models:/nobody/1"
    with pytest.raises(TrackingError, match="models:/nobody/1: not in the registry"):
        fetch(bare, Params.model_validate(plain))


def test_a_version_of_somebody_elses_is_refused(bare: Path) -> None:
    tracking = Tracking(settings().register, bare)
    tracking.client.create_registered_model("foreign")
    tracking.client.create_model_version("foreign", "file:///nowhere")
    plain = tiny_params()
    plain["distill"]["students"]["conv"]["init"] = "models:/foreign/1"
    with pytest.raises(
        TrackingError, match=r"models:/foreign/1: version 1 bears no tag bundle\.sh"
    ):
        fetch(bare, Params.model_validate(plain))


def test_a_version_that_was_changed_in_the_registry_is_refused(bare: Path) -> None:
    (weights,) = [
        path
        for path in (bare / "mlartifacts").rglob("model.safetensors")
        if path.read_bytes() == (bare / "student-1/model.safetensors").read_bytes()
    ]
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ModelError, match=r"model\.safetensors: SHA-256"):
            fetch(bare, settings())
    finally:
        weights.write_bytes(content)
    assert not (bare / "models/registered").exists()


# --- who runs anyway ------------------------------------------------------------------------------

STAGES = """
stages:
  teacher: {cmd: echo > teacher, params: [teacher], outs: [teacher]}
  cache: {cmd: echo > cache, params: [cache], deps: [teacher], outs: [cache]}
  distill:
    matrix:
      student: ${distill.students}
      seed: ${distill.seeds}
    cmd: echo > ${item.student}-${item.seed}
    params: ["distill.students.${item.student}"]
    deps: [cache]
    outs: ["${item.student}-${item.seed}"]
"""


def test_an_alias_is_followed_when_its_reader_or_what_that_waits_for_is_out_of_date(
    tmp_path: Path,
) -> None:
    """Ask the real DVC about stages of the same names that do nothing."""
    run_module(tmp_path, "dvc", "init", "-q", "--no-scm")
    (tmp_path / "dvc.yaml").write_text(STAGES)
    plain = tiny_params()
    conv = plain["distill"]["students"]["conv"]
    plain["teacher"] = {"kind": "registry", "model": ALIAS}
    plain["distill"]["students"] = {
        "one": {**conv, "init": ALIAS},
        "two": {**conv, "init": ALIAS},
        "fixed": {**conv, "init": "models:/tiny/1"},
    }

    def due(changed: dict[str, Any]) -> list[str]:
        write_params(tmp_path, changed)
        return readers_that_run_anyway(tmp_path, Params.model_validate(changed))

    everyone = ["teacher", "students/one", "students/two"]
    assert due(plain) == everyone  # nothing has run yet
    run_module(tmp_path, "dvc", "repro", "-q")
    assert due(plain) == []
    assert due({**plain, "evaluate": {"num_resamples": 300}}) == []
    assert due({**plain, "cache": {"payload": {"log_probs": "f16"}}}) == everyone[1:]
    assert due({**plain, "teacher": {"kind": "registry", "model": "models:/tiny@previous"}}) == (
        everyone
    )
    members = [{"kind": "registry", "model": ALIAS}, tiny_params()["teacher"]]
    assert due({**plain, "teacher": {"kind": "ensemble", "members": members}}) == [
        "teacher/members/0",
        *everyone[1:],
    ]
    students = plain["distill"]["students"]
    one = {**students["one"], "objective": {"teacher_share": 0.4}}
    distill = {**plain["distill"], "students": {**students, "one": one}}
    assert due({**plain, "distill": distill}) == ["students/one"]
    # A seed that is added trains alone: it starts where the others did.
    assert due({**plain, "distill": {**plain["distill"], "seeds": [0, 1]}}) == []
    assert readers_that_run_anyway(tmp_path, Params.model_validate(tiny_params())) == []


FLOW_STAGES = """
  prepare: {cmd: echo > prepare, outs: [prepare]}
  fetch: {cmd: ls models, outs: [models/registered: {persist: true}]}
  evaluate: {cmd: echo > evaluate, outs: [evaluate]}
"""


def test_dvc_is_asked_again_once_the_flow_has_followed_an_alias(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or dvc.lock would go on naming the former champion, beside students that began elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # this workspace has no code of its own
    run_module(tmp_path, "dvc", "init", "-q", "--no-scm")
    (tmp_path / "dvc.yaml").write_text(STAGES + FLOW_STAGES)
    wanted = settings(register={"tracking_uri": f"sqlite:///{bare}/mlflow.db"})
    write_params(tmp_path, wanted.model_dump(mode="json"))
    fetch(tmp_path, wanted, follow=())
    run_module(tmp_path, "dvc", "repro", "-q")
    plain = wanted.model_dump(mode="json")
    plain["distill"]["students"]["conv"]["objective"] = {"teacher_share": 0.4}
    write_params(tmp_path, plain)
    set_champion(bare, "2")
    run = distillation.Run(tmp_path, Params.model_validate(plain), {})
    with disable_run_logger():
        assert distillation.prepare.fn(run) == "unchanged"
        assert distillation.fetch.fn(run) == "ran"
    assert held(tmp_path) == "2"


# --- the whole pipeline ---------------------------------------------------------------------------


def test_the_flow_makes_the_champion_teacher_and_start_and_then_rests(
    bare: Path, tmp_path: Path, prefect_of_copies: str
) -> None:
    root = make_workspace(tmp_path / "workspace")
    prefect_api.use(root, prefect_of_copies)
    plain = tiny_params(register={"tracking_uri": f"sqlite:///{bare}/mlflow.db"})
    plain["teacher"] = {"kind": "registry", "model": ALIAS}
    plain["distill"]["students"]["conv"] = {
        "architecture": {"type": "crnn", "conv_channels": 4, "hidden_size": 8},
        "init": "models:/tiny/2",
    }
    write_params(root, plain)

    alone = run_module(root, "dvc", "repro", check=False)
    assert alone.returncode != 0
    assert f"error: teacher: {ALIAS} has not been fetched" in alone.stdout
    assert "run make fetch" in alone.stdout

    output = run_module(root, "flows.run").stdout
    assert f"teacher: {ALIAS} is version 1, fetched" in output
    assert "students/conv: models:/tiny/2 is version 2, fetched" in output
    champion = bare / "student-1/model.safetensors"
    assert (root / "models/teacher/model.safetensors").read_bytes() == champion.read_bytes()
    (row,) = [json.loads(line) for line in (root / "curves/teacher.jsonl").open()]
    summary = json.loads((root / "reports/evaluation/summary.json").read_text())
    assert summary["models"][0]["role"] == "teacher"
    assert summary["models"][0]["valid_wer"] == row["value"]
    report = json.loads((root / "reports/cache.json").read_text())
    assert report["num_teacher_forwards"] == 32
    assert read_fingerprint(root / "models/teacher").architecture["type"] == "crnn"

    tracking = Tracking(Params.model_validate(plain).register, root)
    registered = json.loads((root / "reports/registered.json").read_text())
    parent = tracking.client.get_run(registered["runs"]["parent"]).data
    assert parent.tags["teacher.version"] == "models:/tiny/1"
    start = bare / "student-2/model.safetensors"
    for kind in ("students", "controls"):
        record = json.loads((root / f"models/{kind}/conv/seed-0/init.json").read_text())
        assert (record["source"], record["version"]) == ("models:/tiny/2", "2")
        assert (
            root / f"models/{kind}/conv/seed-0/model.safetensors"
        ).read_bytes() != start.read_bytes()
        run = tracking.client.get_run(registered["runs"][f"{kind}/conv/seed-0"]).data
        assert run.params["init"] == "models:/tiny/2"

    # Another champion: nothing of it is read until something else changes.
    set_champion(bare, "2")
    lock = (root / "dvc.lock").read_bytes()
    again = run_module(root, "flows.run").stdout
    for target in ("prepare", "fetch", "teacher", "cache", "distill@conv-0", "evaluate"):
        assert f"{target}: unchanged" in again
    assert (root / "dvc.lock").read_bytes() == lock

    followed = run_module(root, "flows.run", "--only", "fetch").stdout
    assert f"teacher: {ALIAS} is version 2, fetched" in followed
    status = run_module(root, "dvc", "status", "teacher").stdout
    assert "models/registered/teacher" in status
