"""Which run results go to, and what they are said to be made from; settings, servers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml

from distillery.errors import ParamsError, StageError
from distillery.params.whole import Params
from distillery.tracking.store import Tracking
from flows import settings
from flows.servers import server, ui
from tasks.lineage import locked_outputs, read_lineage
from tasks.register import open_run, register
from tests.stores import put_mlflow
from tests.tiny import tiny_params, write_params

LOCK = """
schema: '2.0'
stages:
  prepare:
    outs:
    - {path: data/prepared, hash: md5, md5: 0123456789abcdef.dir, size: 1, nfiles: 1}
  distill@conv-0:
    outs:
    - {path: curves/students/conv/seed-0.jsonl, hash: md5, md5: fedcba, size: 1}
"""


def test_hashes_of_outputs_are_read_from_dvcs_lock_file(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK)
    assert locked_outputs(path) == {
        "data/prepared": "0123456789abcdef",
        "curves/students/conv/seed-0.jsonl": "fedcba",
    }
    with pytest.raises(StageError, match="names no models/teacher, reports/evaluation; run make"):
        read_lineage(tmp_path)


def test_a_missing_and_a_damaged_lock_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    with pytest.raises(StageError, match="dvc.lock: no such file; run make run first"):
        locked_outputs(path)
    for damage in ("stages: [", "stages: 3", "3", "stages: {a: {outs: [{path: x}]}}"):
        path.write_text(damage)
        with pytest.raises(StageError, match="dvc.lock: damaged"):
            locked_outputs(path)


def test_registering_before_evaluating_says_what_is_missing(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params())
    with pytest.raises(StageError, match=r"summary\.json: no such file; run make run first"):
        register(tmp_path)


def test_an_open_run_is_gone_on_with_unless_the_settings_changed(tmp_path: Path) -> None:
    params = Params.model_validate(tiny_params())
    tracking = Tracking(params.register, put_mlflow(tmp_path))
    first = open_run(tracking, tmp_path, params)
    assert open_run(tracking, tmp_path, params) == first
    changed = Params.model_validate(tiny_params(evaluate={"num_resamples": 300}))
    second = open_run(tracking, tmp_path, changed)
    assert second != first
    assert tracking.client.get_run(first).info.status == "KILLED"
    tracking.end_run(second, "FAILED")
    assert open_run(tracking, tmp_path, changed) != second


def test_new_settings_keep_the_changed_ones_aside(tmp_path: Path) -> None:
    ready, current = tmp_path / "ready.yaml", tmp_path / "params.yaml"
    ready.write_text(yaml.safe_dump(tiny_params()))
    assert not settings.use(ready, tmp_path)  # nothing stood there
    assert current.read_bytes() == ready.read_bytes()
    assert not settings.use(ready, tmp_path)  # the same
    changed = ready.read_text() + "\n# mine\n"
    current.write_text(changed)
    assert settings.use(ready, tmp_path)
    assert (tmp_path / "params.yaml.bak").read_text() == changed
    assert current.read_bytes() == ready.read_bytes()


def test_settings_that_cannot_be_used_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("mine")
    (tmp_path / "bad.yaml").write_text("prepare: 3\n")
    with pytest.raises(ParamsError, match="bad.yaml"):
        settings.use(tmp_path / "bad.yaml", tmp_path)
    assert (tmp_path / "params.yaml").read_text() == "mine"


def test_a_prefect_api_that_does_not_answer_is_named() -> None:
    url = f"http://127.0.0.1:{server.free_port()}/api"
    assert not server.is_healthy(url)
    with pytest.raises(StageError, match=f"Prefect API at {url}: gave no answer within 0.2 s"):
        server.wait_until_healthy(url, 0.2)


def test_only_a_living_ui_server_is_used(tmp_path: Path) -> None:
    assert server.ui_server(tmp_path) is None
    (tmp_path / ".prefect").mkdir()
    left = f'{{"prefect_api": "http://127.0.0.1:{server.free_port()}/api"}}'
    (tmp_path / server.UI_FILE).write_text(left)
    assert server.ui_server(tmp_path) is None


def test_a_port_that_is_taken_is_named_with_a_way_out(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=f"port {port} .*make ui MLFLOW_PORT={port + 1}"):
            ui.serve(tmp_path, port, server.free_port(), server.free_port())
