"""Servers that die: MLflow and Prefect, before, during and after a run."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distillery.params.register import RegisterParams
from distillery.register.aliases import Aliases, moves, promote, set_champion
from distillery.register.claims import claims
from distillery.tracking.store import Tracking
from distillery.tracking.versions import stored_aliases
from flows.looking_back import history
from flows.servers import server
from tests.pipeline import prefect_api
from tests.pipeline.conftest import environment, kill, run_module, start_module
from tests.pipeline.test_flow import mlflow_runs, versions, wait_for, wait_until_nothing_is_left
from tests.stores import mlflow_of
from tests.tiny import tiny_params, write_params
from tests.unit.register.test_aliases import (
    check_races,
    race,
    register_three,
    start_mover,
    start_promoter,
)

MANY_EPOCHS = 400  # some seconds of training
NUM_RACES = 6


def changed(root: Path, **register: Any) -> None:
    params = tiny_params() | {"retraining": {"retries": 0, "push": False}}
    params["distill"]["training"]["num_epochs"] = MANY_EPOCHS
    params["register"] |= register
    write_params(root, params)


def trains(root: Path) -> bool:
    return any((root / "scratch").glob("*-conv-seed-0-*.pt"))


def lose_prefect(root: Path, home: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a retraining, kill its Prefect server while students train, and return the run."""
    changed(root)
    prefect_api.use(root, server.api_on(port))
    with prefect_api.prefect_server(home, port) as process:
        run = start_module(root, "flows.run", "--retrain")
        wait_for(lambda: trains(root))
        kill(process)
    return run


@contextmanager
def mlflow_server(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real MLflow server on the workspace's own store."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host=127.0.0.1",
            f"--port={port}",
            "--workers=1",
            f"--backend-store-uri=sqlite:///{root}/mlflow.db",
            f"--default-artifact-root={(root / 'mlartifacts').as_uri()}",
        ],
        cwd=root,
        env=environment(root) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: server.answers(f"http://127.0.0.1:{port}/health"))
        yield process
    finally:
        server.stop(process)


@pytest.mark.slow
def test_an_mlflow_server_killed_while_students_train_loses_nothing(copy: Path) -> None:
    port = server.free_port()
    changed(copy, tracking_uri=f"http://127.0.0.1:{port}")
    with mlflow_server(copy, port):
        process = start_module(copy, "flows.run", "--retrain")
        wait_for(lambda: trains(copy) and (copy / "scratch/open_run.json").exists())
    # It is gone. Training goes on, and only registering can fail.
    assert process.wait(240) == 1
    text = (copy / "out.log").read_text()
    assert "curves will be logged at the end" in text
    assert "make register" in text
    record = history.read_history(copy)[-1]
    assert (record.status, record.step) == ("failed", "register")
    assert record.stages["evaluate"] == "ran"
    with mlflow_server(copy, port):
        run_module(copy, "flows.run", "--retrain")
    last = history.read_history(copy)[-1]
    assert (last.status, last.why) == ("finished", ["the last run failed at register"])
    assert set(last.stages.values()) == {"unchanged"}
    client = mlflow_of(copy)
    points = [
        len(client.get_metric_history(child.info.run_id, "valid/wer"))
        for child in mlflow_runs(copy, f"tags.`mlflow.parentRunId` = '{last.mlflow_run}'")
    ]
    assert points == [MANY_EPOCHS, MANY_EPOCHS]  # every one, and none twice
    assert versions(copy) == [1]


@contextmanager
def bad_server(answer: bytes) -> Iterator[int]:
    """Take every connection on a port and answer always the same, or never."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = []

        def take() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    taken.append(connection)
                    if answer:
                        connection.recv(65536)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=take, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"],
    ids=["silent", "500"],
)
def test_an_mlflow_server_that_is_out_of_order_holds_nobody_up(copy: Path, answer: bytes) -> None:
    with bad_server(answer) as port:
        write_params(copy, tiny_params(register={"tracking_uri": f"http://127.0.0.1:{port}"}))
        start = time.monotonic()
        failed = run_module(copy, "flows.run", "--only", "register", check=False)
        assert failed.returncode == 1
        assert "the results are safe in the workspace" in failed.stdout
        assert "make register" in failed.stdout
        assert "Traceback" not in failed.stdout
        assert time.monotonic() - start < 90
    write_params(copy, tiny_params())
    run_module(copy, "flows.run", "--only", "register")
    assert versions(copy) == [1]


@pytest.mark.slow
def test_two_who_promote_at_once_on_a_real_server_leave_one_champion(tmp_path: Path) -> None:
    """From two workspaces, whose locks do not know each other."""
    port = server.free_port()
    for name in ("server", "mine", "yours"):
        (tmp_path / name).mkdir()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(tmp_path / "server", port):
        registry = Tracking(RegisterParams(experiment="tests", tracking_uri=uri), tmp_path / "mine")
        register_three(registry)
        set_champion(registry, "m", "1", Aliases(), "the gate", "the first champion")
        people = [start_promoter(tmp_path / name, uri) for name in ("mine", "yours")]
        check_races(registry, people, NUM_RACES)
        assert not claims(registry, "m")
        # Those who ask for nothing, as MLflow's pages, leave one champion, too.
        movers = {
            version: start_mover(tmp_path / name, version, uri)
            for version, name in (("2", "mine"), ("3", "yours"))
        }
        for _, found in race(registry, movers):
            named = asdict(found).items()  # of those that exist
            assert stored_aliases(registry, "m") == {k: v for k, v in named if v is not None}
            assert promote(registry, "m", "1").former == found.champion
            # Who came last may have been noted first; the next command sets that right.
            assert moves(registry, "m")[1].version == found.champion
        assert [process.wait(60) for process in movers.values()] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("command", ["ui", "schedule", "serve"])
def test_nothing_listens_after_the_end(
    finished: Path, command: str, number: signal.Signals
) -> None:
    ports = [server.free_port(), server.free_port()]
    options, said = {
        "ui": (["--mlflow-port", str(ports[0]), "--prefect-port", str(ports[1])], "stops both"),
        "schedule": (["--prefect-port", str(ports[0])], "Ctrl-C ends the schedule"),
        "serve": (["--port", str(ports[0])], "answers until Ctrl-C"),
    }[command]
    log = finished / "out.log"
    log.unlink(missing_ok=True)
    process = start_module(finished, f"flows.{command}", *options)
    try:
        wait_for(lambda: said in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        assert not server.is_free(ports[0])
        assert at_work_in(finished) > {process.pid}
    finally:
        process.send_signal(number)
        process.wait(60)
    wait_for(lambda: not at_work_in(finished), 15)
    assert all(map(server.is_free, ports))
    if number == signal.SIGKILL:  # what it left does not keep the next from finding its own
        assert server.ui_server(finished) is None


def at_work_in(root: Path) -> set[int]:
    """Return all processes whose folder is a workspace."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == root and (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_prefect_server_that_is_restarted_during_a_run_is_not_missed(
    copy: Path, tmp_path: Path
) -> None:
    port = server.free_port()
    run = lose_prefect(copy, tmp_path / "prefect", port)
    with prefect_api.prefect_server(tmp_path / "prefect", port):
        assert run.wait(240) == 0, (copy / "out.log").read_text()
        (found,) = prefect_api.runs_of(server.api_on(port), copy)
        assert found["state_type"] == "COMPLETED"
    (record,) = history.read_history(copy)
    assert record.status == "finished"
    assert versions(copy) == [1]


@pytest.mark.slow
def test_a_prefect_server_that_dies_for_good_costs_no_work(copy: Path, tmp_path: Path) -> None:
    port = server.free_port()
    run = lose_prefect(copy, tmp_path / "prefect", port)
    run.wait(480)
    wait_until_nothing_is_left(copy)
    output = run_module(copy, "flows.run", "--retrain").stdout  # brings a server of its own
    assert "distill@conv-0: ran" not in output
    last = history.read_history(copy)[-1]
    assert last.status in ("finished", "nothing new")
    assert versions(copy) == [1]


def test_a_prefect_server_that_is_set_but_dead_is_named_within_seconds(copy: Path) -> None:
    url = f"http://127.0.0.1:{server.free_port()}/api"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows.run", "--retrain"],
        cwd=copy,
        env=environment(copy) | {"PREFECT_API_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert f"Prefect API at {url}: gave no answer within 5 s" in done.stderr
    assert time.monotonic() - start < 60  # most of it for imports
    assert not (copy / history.HISTORY_FILE).exists()


@pytest.mark.slow
def test_a_clock_that_goes_back_over_a_tick_starts_no_run_twice(tmp_path: Path) -> None:
    """The server plans ticks again that it has planned before, as it does after such a jump.

    The clock itself is left alone: nothing here can turn it back for one process.
    """
    port = server.free_port()
    api = server.api_on(port)
    with prefect_api.prefect_server(tmp_path / "prefect", port):
        flow = prefect_api.post(api, "flows/", name="nightly")
        deployment = prefect_api.post(
            api,
            "deployments/",
            name="d",
            flow_id=flow["id"],
            paused=True,
            schedules=[{"schedule": {"cron": "0 3 * * *", "timezone": "UTC"}, "active": True}],
        )

        def plan(start: str, end: str) -> list[str]:
            url = f"deployments/{deployment['id']}/schedule"
            prefect_api.post(api, url, start_time=start, end_time=end, max_runs=50)
            runs = prefect_api.post(
                api, "flow_runs/filter", deployments={"id": {"any_": [deployment["id"]]}}
            )
            return sorted(run["expected_start_time"] for run in runs)

        first = plan("2099-03-01T02:00:00Z", "2099-03-03T04:00:00Z")
        assert len(first) == 3
        # Back by an hour, across the tick of the first of March.
        assert plan("2099-03-01T01:00:00Z", "2099-03-03T04:00:00Z") == first
        # Back by two days: two ticks more, and none of the others again.
        later = plan("2099-02-27T02:00:00Z", "2099-03-03T04:00:00Z")
        assert later == ["2099-02-27T03:00:00Z", "2099-02-28T03:00:00Z", *first]
