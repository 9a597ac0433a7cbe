"""Stores of a run that lack a driver, are dead, or answer."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from distillery.params.register import RegisterParams
from flows import stores
from flows.servers import server
from flows.stores import (
    check_mlflow,
    check_prefect,
    check_remote,
    prefect_database_fault,
    warn_of_stores,
)
from tests import store_servers
from tests.stores import put_mlflow

EXPERIMENT = "tests"


def remote(root: Path, url: str, **options: str) -> None:
    """Give a workspace a default remote of DVC."""
    (root / ".dvc").mkdir(exist_ok=True)
    lines = ["[core]", "remote = far", "no_scm = true", "['remote \"far\"']", f"url = {url}"]
    lines += [f"{name} = {value}" for name, value in options.items()]
    (root / ".dvc/config").write_text("\n".join(lines) + "\n")


def artifacts_in(root: Path, location: str) -> RegisterParams:
    """Give a workspace MLflow in a database, with an experiment whose files go elsewhere."""
    uri = f"sqlite:///{put_mlflow(root)}/mlflow.db"
    MlflowClient(uri, uri).create_experiment(EXPERIMENT, location)
    return RegisterParams(experiment=EXPERIMENT, tracking_uri=uri)


def without(patch: pytest.MonkeyPatch, *modules: str) -> None:
    """Have modules be missing, installed or not."""
    for name in modules:
        patch.setitem(sys.modules, name, None)


def test_a_database_without_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "psycopg2")
    uri = "postgresql://anna:secret@127.0.0.1:1/mlflow"
    found = check_mlflow(RegisterParams(tracking_uri=uri), tmp_path)
    assert not found.ok
    assert found.found.startswith(
        "MLflow at postgresql://anna@127.0.0.1:1/mlflow: the Python module psycopg2 is not "
        "installed; make install brings it, elsewhere pip install 'distillery[postgres]'"
    )
    assert "\n" not in found.found
    assert found.advice == "training works without; make register later"


def test_a_dead_database_is_named_at_once(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2", reason="the extra postgres is not installed")
    port = server.free_port()
    settings = RegisterParams(tracking_uri=f"postgresql://anna@127.0.0.1:{port}/mlflow")
    start = time.monotonic()
    found = check_mlflow(settings, tmp_path)
    assert f'"127.0.0.1", port {port} failed: Connection refused; the results are' in found.found
    assert not found.ok
    assert time.monotonic() - start < 60  # by itself MLflow tries for 102 s


def test_artifacts_without_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "boto3", "botocore")  # MLflow asks now for the one, now for the other
    found = check_mlflow(artifacts_in(tmp_path, "s3://bucket/runs"), tmp_path)
    assert not found.ok
    said = r"artifacts at s3://bucket/runs: the Python module boto(3|core) is not installed; "
    assert re.search(said, found.found)
    assert "pip install 'distillery[s3]'" in found.found


def test_a_dead_store_of_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3", reason="the extra s3 is not installed")
    url = f"http://127.0.0.1:{server.free_port()}"
    for name, value in store_servers.credentials(url).items():
        monkeypatch.setenv(name, value)
    found = check_mlflow(artifacts_in(tmp_path, "s3://bucket/runs"), tmp_path)
    assert not found.ok
    assert "artifacts at s3://bucket/runs: Could not connect to the endpoint URL" in found.found


def test_a_store_of_artifacts_that_is_silent_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "STORE_SECONDS", 0.2)
    monkeypatch.setattr(
        "distillery.tracking.store.Tracking.check_artifacts", lambda _: time.sleep(30)
    )
    found = check_mlflow(RegisterParams(experiment=EXPERIMENT), put_mlflow(tmp_path))
    assert found.found.endswith("/mlartifacts gave no answer within 0.2 s")
    assert not found.ok


def test_a_remote_of_the_workspace_alone_or_none_is_right(tmp_path: Path) -> None:
    assert check_remote(tmp_path).found == "none is set; make remote URL=… sets one for a team"
    remote(tmp_path, "../store")
    assert check_remote(tmp_path).ok


def test_a_remote_without_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "dvc_s3")
    remote(tmp_path, "s3://bucket/dvc")
    found = check_remote(tmp_path)
    assert not found.ok
    assert found.found == (
        "far (s3://bucket/dvc): the Python module dvc_s3 is not installed; make install brings it, "
        "elsewhere pip install 'distillery[s3]'"
    )
    assert found.advice.endswith("runs go on without")


def test_a_dead_remote(tmp_path: Path) -> None:
    pytest.importorskip("dvc_s3", reason="the extra s3 is not installed")
    url = f"http://127.0.0.1:{server.free_port()}"
    secrets = {"access_key_id": "any", "secret_access_key": "any"}
    remote(tmp_path, "s3://bucket/dvc", endpointurl=url, **secrets)
    found = check_remote(tmp_path)
    assert not found.ok
    assert "far (s3://bucket/dvc): " in found.found
    assert "\n" not in found.found
    assert "start it" in found.advice


def test_a_run_is_told_of_all_that_is_wrong_in_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    warn_of_stores(tmp_path, RegisterParams(), said.append)
    assert said == []
    assert not (tmp_path / "mlflow.db").exists()  # nor made
    without(monkeypatch, "dvc_s3", "psycopg2")
    remote(tmp_path, "s3://bucket/dvc")
    warn_of_stores(tmp_path, RegisterParams(tracking_uri="postgresql://h:1/x"), said.append)
    assert [line.partition(": ")[0] for line in said] == ["DVC remote", "MLflow"]
    assert not any("\n" in line for line in said)


def test_prefects_database_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in stores.DATABASE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert check_prefect(None).ok
    name = "PREFECT_API_DATABASE_CONNECTION_URL"
    monkeypatch.setenv(name, "sqlite+aiosqlite:////somewhere/prefect.db")
    assert prefect_database_fault() is None
    dead = f"127.0.0.1:{server.free_port()}"
    monkeypatch.setenv(name, f"postgresql+asyncpg://anna:secret@{dead}/prefect")
    found = check_prefect(None)
    assert not found.ok
    assert f"{name}=postgresql+asyncpg://anna@{dead}/prefect: [Errno" in found.found
    assert found.advice == (
        f"start it, or unset {name}: Prefect then keeps a file in the workspace"
    )
    monkeypatch.setenv(name, "postgresql://h/prefect")
    assert "Prefect takes postgresql+asyncpg://" in str(prefect_database_fault())
    assert not check_prefect("http://127.0.0.1:9/api").ok


def test_a_real_s3_keeps_artifacts_and_what_dvc_pushes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dvc_s3", reason="the extra s3 is not installed")
    with store_servers.s3("bucket", monkeypatch) as url:
        settings = artifacts_in(tmp_path, "s3://bucket/runs")
        assert check_mlflow(settings, tmp_path).ok
        assert settings.tracking_uri is not None
        client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        run = client.create_run(experiment.experiment_id).info.run_id
        client.log_text(run, "here", "note.txt")
        assert [item.path for item in client.list_artifacts(run)] == ["note.txt"]
        remote(tmp_path, "s3://bucket/dvc", endpointurl=url)
        assert check_remote(tmp_path).ok
        (tmp_path / "file").write_text("content")
        for arguments in (["add", "file"], ["push"]):
            dvc(tmp_path, *arguments)
        (tmp_path / "file").unlink()
        for path in (tmp_path / ".dvc/cache").rglob("*"):
            if path.is_file():
                path.unlink()
        dvc(tmp_path, "pull")
        assert (tmp_path / "file").read_text() == "content"


def dvc(root: Path, *arguments: str) -> None:
    """Run DVC in a workspace."""
    subprocess.run(
        [sys.executable, "-m", "dvc", "-q", *arguments], cwd=root, check=True, timeout=300
    )


def test_a_real_database_keeps_mlflows_runs(tmp_path: Path) -> None:
    with store_servers.postgres("mlflow") as url:
        found = check_mlflow(RegisterParams(tracking_uri=f"{url}/mlflow"), tmp_path)
        assert found.ok, found
        missing = check_mlflow(RegisterParams(tracking_uri=f"{url}/other"), tmp_path)
        assert 'database "other" does not exist' in missing.found
