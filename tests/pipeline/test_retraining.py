"""Retraining as it happens at night: new data, nothing new, kills, a schedule that really fires."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from distillery.register.registered import Registered
from flows import origin as origins
from flows import retraining
from flows.looking_back import history
from flows.servers import server
from flows.servers.password import CLIENT_VARIABLE
from flows.stages.lock import workspace_lock
from tests.pipeline import prefect_api
from tests.pipeline.conftest import PASSWORD, ROOT, environment, kill, run_module, start_module
from tests.pipeline.test_flow import mlflow_runs, wait_for, wait_until_nothing_is_left
from tests.stores import mlflow_of
from tests.tiny import RATE_HZ, speak, tiny_params, write_params

QUICK = {"pull": True, "retries": 0}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with schedules and all else."""
    port = server.free_port()
    with prefect_api.prefect_server(tmp_path_factory.mktemp("prefect"), port):
        yield server.api_on(port)


@pytest.fixture
def shop(copy: Path, api: str) -> Path:
    """A finished workspace whose results are registered nowhere yet."""
    settings(copy)
    prefect_api.use(copy, api)
    return copy


def settings(root: Path, epochs: int | None = None, **retraining: Any) -> None:
    params = tiny_params() | {"retraining": QUICK | retraining}
    if epochs is not None:
        params["distill"]["training"]["num_epochs"] = epochs
    write_params(root, params)


def add_recording(root: Path, name: str = "new") -> None:
    """Add one without transcript, of which the same teacher comes."""
    soundfile.write(root / f"corpus/{name}.wav", speak("cab ab", 999), RATE_HZ)
    with open(root / "corpus/manifest.csv", "a", encoding="utf-8") as file:
        file.write(f"{name}.wav,,s05,train\n")


def retrain(root: Path, *arguments: str, status: int = 0) -> str:
    done = run_module(root, "flows.run", "--retrain", *arguments, check=False)
    assert done.returncode == status, done.stdout
    return done.stdout


def test_a_new_recording_goes_all_the_way_and_then_there_is_nothing_new(
    shop: Path, api: str
) -> None:
    settings(shop, commit=True)
    (shop / "mine.txt").write_text("not to be committed")
    subprocess.run(["git", "add", "mine.txt"], cwd=shop, check=True)
    add_recording(shop)
    output = retrain(shop)
    assert "new data: corpus changed" in output
    (record,) = history.read_history(shop)
    assert (record.status, record.trigger, record.teacher_forwards) == ("finished", "manual", 1)
    assert record.num_utterances == 49
    assert record.stages["teacher"] == "ran"  # it looked, and made the same one
    assert (record.alias, record.champion, record.pushed) == ("champion", record.version, True)
    summary = json.loads((shop / "reports/evaluation/summary.json").read_text())
    assert record.wer in [row["wer"] for row in summary["models"] if row["role"] == "student"]
    committed = subprocess.run(
        ["git", "show", "--name-only", "--format=%s", record.commit or ""],
        cwd=shop,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    assert committed[0] == f"Retraining {record.run}: new data: corpus changed"
    assert committed[2:] == ["dvc.lock", ""]
    page = (shop / f"reports/retraining/{record.run}.md").read_text()
    assert "1 utterances" in page
    assert f"version {record.version}: champion" in page
    (run,) = prefect_api.runs_of(api, shop)
    assert run["state_type"] == "COMPLETED"
    assert re.fullmatch(r"corpus, manual, \d{4}-\d\d-\d\d \d\d:\d\d: new data", run["name"])
    tasks = prefect_api.post(
        api,
        "task_runs/filter",
        flow_runs={"id": {"any_": [run["id"]]}},
        sort="EXPECTED_START_TIME_ASC",
    )
    assert [task["name"] for task in tasks] == [
        "pull",
        "prepare",
        "fetch",
        "teacher",
        "cache",
        "distill (conv, seed 0)",
        "evaluate",
        "register",
        "push",
    ]
    (artifact,) = prefect_api.post(
        api,
        "artifacts/filter",
        artifacts={"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["retraining"]}},
    )
    assert artifact["data"] == page
    run = mlflow_of(shop).get_run(str(record.mlflow_run))
    assert run.data.tags["retraining.run"] == record.run
    assert (shop / "reports/retraining.png").stat().st_size > 0

    before = len(mlflow_runs(shop))
    assert "nothing new: the corpus and all else are as they were" in retrain(shop)
    nothing = history.read_history(shop)[-1]
    assert nothing.status == "nothing new"
    assert nothing.seconds is not None
    assert nothing.seconds < 30
    assert len(mlflow_runs(shop)) == before
    assert prefect_api.runs_of(api, shop)[0]["name"].endswith(": nothing new")
    assert len(list((shop / "reports/retraining").glob("*.md"))) == 1


def test_a_second_run_is_skipped_with_a_reason(shop: Path, api: str) -> None:
    with workspace_lock(shop):
        output = retrain(shop, status=75)
    assert f"already running: pid {os.getpid()}" in output
    (run,) = prefect_api.runs_of(api, shop)
    assert (run["state_type"], run["state_name"]) == ("CANCELLED", "Skipped")
    assert run["name"].endswith(": skipped")
    assert f"already running: pid {os.getpid()}" in run["state"]["message"]
    (record,) = history.read_history(shop)
    assert record.status == "skipped"
    assert not (shop / history.OPEN_FILE).exists()


def test_a_run_that_takes_too_long_is_stopped_and_says_so(shop: Path, api: str) -> None:
    settings(shop, epochs=5000, timeout_hours=15 / 3600)
    output = retrain(shop, status=1)
    assert "raise retraining.timeout_hours" in output
    wait_until_nothing_is_left(shop)
    (record,) = history.read_history(shop)
    assert record.status == "failed"
    assert "took longer than 0.0041" in record.reason
    assert prefect_api.runs_of(api, shop)[0]["state_type"] == "FAILED"


def test_a_killed_run_is_found_out_by_the_next_which_goes_on(shop: Path, api: str) -> None:
    settings(shop, epochs=60)
    process = start_module(shop, "flows.run", "--retrain")
    wait_for(lambda: list((shop / "scratch").glob("*-conv-seed-0-*.pt")))
    kill(process)
    wait_until_nothing_is_left(shop)
    left = history.unfinished(shop)
    assert left is not None
    assert left.step == "distill@conv-0"
    elsewhere = [
        running_elsewhere(api, left, {origins.HOST: "another"}),
        running_elsewhere(api, left, {origins.IDENTITY: "another"}),
        running_elsewhere(api, left, {origins.BOOT: "another"}),
        running_elsewhere(api, left, origins.origin(shop)),  # alive: this process
    ]
    output = retrain(shop)
    assert "goes on after epoch" in output
    crashed, finished = history.read_history(shop)
    assert (crashed.run, crashed.status) == (left.run, "crashed")
    assert (finished.status, finished.stages["cache"]) == ("finished", "unchanged")
    assert "the last run crashed at distill@conv-0" in finished.why
    page = (shop / f"reports/retraining/{crashed.run}.md").read_text()
    assert "ended at the step `distill@conv-0`. Nothing is lost" in page
    states = {run["id"]: run["state_type"] for run in prefect_api.all_runs(api)}
    assert states[str(crashed.flow_run)] == "CRASHED"
    assert states[str(finished.flow_run)] == "COMPLETED"
    assert {states[run] for run in elsewhere} == {"RUNNING"}
    for run in elsewhere:
        prefect_api.post(api, f"flow_runs/{run}/set_state", state={"type": "CANCELLED"}, force=True)


def running_elsewhere(api: str, run: history.Retraining, changes: dict[str, str]) -> str:
    """Let Prefect know of a run that began with another but elsewhere, and return its id."""
    (known,) = prefect_api.post(api, "flow_runs/filter", flow_runs={"id": {"any_": [run.flow_run]}})
    made = prefect_api.post(
        api,
        "flow_runs/",
        flow_id=known["flow_id"],
        labels=run.origin | changes,
        state={"type": "RUNNING"},
    )
    return str(made["id"])


def test_the_schedule_fires_and_a_cancelled_run_leaves_no_process(shop: Path, api: str) -> None:
    settings(shop, epochs=5000)
    schedule = start_module(shop, "flows.servers.schedule")
    try:
        wait_for(lambda: any(run["auto_scheduled"] for run in prefect_api.all_runs(api)))
        runs = [run for run in prefect_api.all_runs(api) if run["state_type"] == "SCHEDULED"]
        # Wrong versions of Prefect's parts let schedules make no runs, and say nothing.
        assert len(runs) > 1
        assert all(run["auto_scheduled"] for run in runs)
        assert all("T03:00:00" in run["expected_start_time"] for run in runs)
        url = f"deployments/{runs[0]['deployment_id']}/create_flow_run"
        prefect_api.post(api, url)  # now, for the night is far
        wait_for(lambda: list((shop / "scratch").glob("*-conv-seed-0-*.pt")), 150)
        (running,) = [r for r in prefect_api.runs_of(api, shop) if r["state_type"] == "RUNNING"]
        assert running["name"].startswith("corpus, schedule, ")
        prefect_api.prefect(shop, api, "flow-run", "cancel", running["id"])
        wait_for(lambda: any(of_run(shop, running["id"])), 30)
        (record,) = of_run(shop, running["id"])
        assert record.status == "cancelled"
        assert record.step == "distill@conv-0"
        wait_for(lambda: state_of(api, shop, running["id"]) == "CANCELLED", 30)
    finally:
        schedule.send_signal(signal.SIGTERM)
        schedule.wait(60)
    wait_until_nothing_is_left(shop)


def of_run(root: Path, run: str) -> list[history.Retraining]:
    return [row for row in history.read_history(root) if row.flow_run == run]


def state_of(api: str, root: Path, run: str) -> str:
    (found,) = [row for row in prefect_api.runs_of(api, root) if row["id"] == run]
    return str(found["state_type"])


def test_what_a_former_run_could_not_commit_is_committed_and_nothing_twice(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    for name, value in {"user.name": "t", "user.email": "t@t"}.items():
        subprocess.run([*git, "config", name, value], check=True)
    (tmp_path / "dvc.lock").write_text("of a run that was killed before its commit\n")
    record = history.Retraining("b", "manual", "2026-01-31T03:00:00+00:00", why=["it crashed"])
    retraining.commit_lock(retraining.Journal(tmp_path, record), "corpus")
    first = record.commit
    assert first is not None
    record.commit = None
    retraining.commit_lock(retraining.Journal(tmp_path, record), "corpus")
    assert (record.commit, record.warnings) == (None, [])
    log = subprocess.run(
        [*git, "log", "--format=%H %s"], capture_output=True, check=True, text=True
    )
    assert log.stdout == f"{first} Retraining b: it crashed\n"
    (tmp_path / "corpus.dvc").write_text("of a corpus that DVC keeps\n")
    retraining.commit_lock(retraining.Journal(tmp_path, record), "corpus/")
    files = subprocess.run([*git, "ls-files"], capture_output=True, check=True, text=True)
    assert files.stdout == "corpus.dvc\ndvc.lock\n"


def test_an_evaluation_that_was_not_registered_is_work(tmp_path: Path) -> None:
    """As `make evaluate` leaves one behind: DVC has nothing to do."""
    (tmp_path / "reports").mkdir()
    out = {"path": "reports/evaluation", "md5": "e" * 32 + ".dir"}
    lock = {"stages": {"evaluate": {"outs": [out]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    registered = Registered("m", "1", "champion", "", "1", "conv", 0, {}, {}, "1", "sqlite://")
    for md5, is_registered in ((None, False), ("d" * 32, False), ("e" * 32, True)):
        if md5 is not None:
            replace(registered, evaluation_md5=md5).write(tmp_path)
        assert retraining.is_registered(tmp_path) == is_registered


def test_the_two_places_that_say_when_agree() -> None:
    deployment = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]
    (schedule,) = deployment["schedules"]
    ready = yaml.safe_load((ROOT / "params.yaml").read_text())["retraining"]
    assert (schedule["cron"], schedule["timezone"]) == (ready["cron"], ready["timezone"])


def test_a_deployment_runs_where_each_worker_has_its_workspace(api: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    for package in ("flows", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package)
    prefect_api.prefect(tmp_path, api, "work-pool", "create", "distillery", "--type", "process")
    prefect_api.prefect(tmp_path, api, "deploy", "--all")  # with DISTILLERY_ROOT of who deploys
    (deployment,) = prefect_api.post(
        api, "deployments/filter", deployments={"name": {"any_": ["nightly"]}}
    )
    assert str(tmp_path) not in json.dumps(deployment)
    for name in ("here", "a workspace elsewhere"):
        workspace = tmp_path / name
        workspace.mkdir()
        found = pulled(api, deployment, tmp_path, DISTILLERY_ROOT=str(workspace))
        assert found == f"{workspace}\n"
    with pytest.raises(subprocess.CalledProcessError) as caught:
        pulled(api, deployment, tmp_path)
    assert "DISTILLERY_ROOT: set it where the worker starts" in caught.value.stderr


def pulled(api: str, deployment: dict[str, Any], folder: Path, **variables: str) -> str:
    """Run a deployment's pull steps as a worker does, and return the folder that they end in."""
    code = """
import asyncio, json, os, sys
from prefect.deployments.steps.core import run_steps
asyncio.run(run_steps(json.loads(sys.argv[1]), print_function=lambda *_, **__: None))
print(os.getcwd())
"""
    steps = json.dumps(deployment["pull_steps"])
    return subprocess.run(
        [sys.executable, "-c", code, steps],
        cwd=folder,
        env=environment(folder)
        | {"PREFECT_API_URL": api, CLIENT_VARIABLE: PASSWORD, "PREFECT_HOME": str(folder)}
        | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


@pytest.mark.slow
def test_the_documented_commands_deploy_to_a_worker_that_retrains(
    shop: Path, api: str, tmp_path: Path
) -> None:
    documented = (ROOT / "docs/retraining.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", documented, re.DOTALL)
    shutil.copy(ROOT / "prefect.yaml", shop)
    add_recording(shop)
    with open(shop / "worker.log", "wb") as log:
        worker = subprocess.Popen(
            ["bash", "-ec", block.replace("http://127.0.0.1:4200/api", api)],
            cwd=shop,
            env=environment(shop)
            | {"PREFECT_HOME": str(tmp_path / "home"), "DISTILLERY_ROOT": "/of/who/deploys"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "started!" in (shop / "worker.log").read_text())
        prefect_api.prefect(shop, api, "deployment", "run", "retraining/nightly")
        wait_for(lambda: history.read_history(shop), 240)
    finally:
        server.stop(worker)
    (record,) = history.read_history(shop)
    assert (record.status, record.trigger) == ("finished", "schedule"), record.reason
    assert record.teacher_forwards == 1
    assert json.loads((shop / "reports/registered.json").read_text())["alias"] == "champion"
