"""Stores elsewhere: dead or without a driver during a run, and real ones that a team shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from distillery.params.register import RegisterParams
from distillery.register.aliases import Aliases, moves, promote, rollback, set_champion
from distillery.register.claims import claims
from distillery.tracking.store import Tracking
from distillery.tracking.versions import checked_folder
from flows.servers import server, ui
from flows.servers.password import USER, password
from tests import store_servers
from tests.pipeline.conftest import run_module
from tests.pipeline.test_flow import retry_at_once, wait_for
from tests.tiny import tiny_params, write_params
from tests.unit.register.test_aliases import check_races, register_three, start_promoter

NUM_RACES = 4


def test_a_run_without_its_stores_says_so_first_and_trains(copy: Path) -> None:
    """Whether drivers are installed or not: nothing listens on either port."""
    port = server.free_port()
    settings = tiny_params(register={"tracking_uri": f"postgresql://me@127.0.0.1:{port}/x"})
    settings["distill"]["training"]["learning_rate"] = 4e-3  # so that distill has work to do
    write_params(copy, settings)
    (copy / ".dvc/config.local").write_text(
        "[core]\nremote = far\n['remote \"far\"']\nurl = s3://bucket/dvc\n"
        f"endpointurl = http://127.0.0.1:{port}\naccess_key_id = any\nsecret_access_key = any\n"
    )
    retry_at_once(copy)
    failed = run_module(copy, "flows.run", check=False)
    assert failed.returncode == 1
    lines = failed.stdout.splitlines()
    trained = number_of(lines, "distill@conv-0: ran")
    assert number_of(lines, "DVC remote: far (s3://bucket/dvc): ") < trained
    dead = f"MLflow: postgresql://me@127.0.0.1:{port}/x: "
    assert number_of(lines, dead) < trained
    assert trained < number_of(lines, "dvc push to far (s3://bucket/dvc): ")
    assert lines[-1].startswith(f"error: MLflow at postgresql://me@127.0.0.1:{port}/x: ")
    assert lines[-1].endswith("run make register")
    assert "Traceback" not in failed.stdout
    del settings["register"]["tracking_uri"]
    write_params(copy, settings)
    run_module(copy, "flows.run", "--only", "register")
    assert json.loads((copy / "reports/registered.json").read_text())["alias"] == "champion"


def number_of(lines: list[str], part: str) -> int:
    """Return the number of the only line, but for retries, that holds a text."""
    found = [number for number, line in enumerate(lines) if part in line]
    assert found, part
    return found[0]


@pytest.mark.slow
def test_records_name_the_user_of_a_server_that_asks_for_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, port = tmp_path, server.free_port()
    uri = f"http://127.0.0.1:{port}"
    store = Tracking(RegisterParams(experiment="tests"), root).uri  # made before the server starts
    served = ui._mlflow(root, RegisterParams(tracking_uri=store), port, root / "mlflow.log")
    try:
        wait_for(lambda: server.answers(f"{uri}/health"))
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password(root))
        registry = Tracking(RegisterParams(experiment="tests", tracking_uri=uri), root)
        register_three(registry)
        version = registry.client.get_model_version("m", "1")
        assert version.tags["registered.by"] == USER
        assert registry.client.get_run(version.run_id).data.tags["mlflow.user"] == USER
        set_champion(registry, "m", "1", Aliases(), "the gate", "the first champion")
        assert promote(registry, "m", "2").by == USER
        assert rollback(registry, "m").by == USER
        assert [move.by for move in moves(registry, "m")] == [USER, USER, "the gate"]
    finally:
        server.stop(served)


@pytest.mark.slow
def test_a_team_on_postgresql_and_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server before them: each workspace has the drivers, and no file to lock."""
    for name in ("mine", "yours"):
        (tmp_path / name).mkdir()
    with store_servers.s3("bucket", monkeypatch), store_servers.postgres("mlflow") as url:
        uri = f"{url}/mlflow"
        MlflowClient(uri, uri).create_experiment("tests", "s3://bucket/runs")
        registry = Tracking(RegisterParams(experiment="tests", tracking_uri=uri), tmp_path / "mine")
        registry.check_artifacts()
        register_three(registry)
        assert (checked_folder(registry, "models:/m/1") / "model.safetensors").exists()
        set_champion(registry, "m", "1", Aliases(), "the gate", "the first champion")
        people = [start_promoter(tmp_path / name, uri) for name in ("mine", "yours")]
        check_races(registry, people, NUM_RACES)
        assert not claims(registry, "m")
