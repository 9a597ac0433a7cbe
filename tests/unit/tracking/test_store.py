"""Runs in a real MLflow store on SQLite, made once for this module."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from distillery.credentials import without_credentials
from distillery.errors import TrackingError
from distillery.params.objective import FrameLossParams, ObjectiveParams, SequenceLossParams
from distillery.params.register import RegisterParams
from distillery.tracking.curve_files import CurveFile, Point
from distillery.tracking.names import (
    charts_page,
    flatten,
    objective_name,
    pipeline_name,
    run_name,
    run_page,
    runs_page,
)
from distillery.tracking.store import DataSource, Tracking, tracking_uri

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    root = tmp_path_factory.mktemp("a workspace")  # with a space in its name
    return Tracking(RegisterParams(experiment="tests"), root)


def rows(*steps: int) -> str:
    lines = [
        json.dumps({"key": "train/loss", "value": step / 2, "step": step, "timestamp": 1000 + step})
        for step in steps
    ]
    return "".join(f"{line}\n" for line in lines)


def test_the_store_is_in_the_workspace_wherever_the_process_runs(tmp_path: Path) -> None:
    assert tracking_uri(RegisterParams(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(RegisterParams(tracking_uri="http://h:1"), tmp_path) == "http://h:1"


def test_credentials_never_leave_a_uri() -> None:
    assert without_credentials("http://user:secret@host:5000/x") == "http://host:5000/x"
    assert without_credentials("sqlite:////a@b/mlflow.db") == "sqlite:////a@b/mlflow.db"
    assert without_credentials("failed: https://u:p@h/ went away") == "failed: https://h/ went away"


def test_names_of_runs_tell_students_apart() -> None:
    objective = ObjectiveParams(teacher_share=0.5, frame=FrameLossParams(temperature=2.0))
    assert objective_name(objective) == "T2-share0.5"
    teachers = SequenceLossParams(where_transcribed="teacher")
    told = objective.model_copy(update={"sequence": teachers})
    assert objective_name(told) == "T2-teachertexts-share0.5"
    mse = ObjectiveParams(teacher_share=1.0, frame=FrameLossParams(type="logit_mse"))
    assert objective_name(mse) == "logit_mse-share1"
    assert objective_name(ObjectiveParams(teacher_share=0.0)) == "share0"
    assert objective_name(None) == "control"
    assert run_name("conv", "T2-share0.5", "1a2b3c4d5e") == "conv@1a2b3c-T2-share0.5"
    assert run_name("conv", "control", "1a2b3c4d5e", 3) == "conv@1a2b3c-control-seed3"
    assert run_name("conv", "control") == "conv-control"
    assert pipeline_name("conv-share1", "an4", "1a2b3c4d5e") == "conv-share1 on an4@1a2b3c"
    assert pipeline_name("01-31 09:30", "an4", "") == "01-31 09:30 on an4"


def test_the_comparison_of_students_opens_from_an_address_alone() -> None:
    page = urlsplit(charts_page("7"))
    path, _, query = page.fragment.partition("?")
    assert (page.netloc, page.path, path) == ("", "", "/experiments/7/runs")
    assert parse_qs(query) == {
        "compareRunsMode": ["CHART"],
        "searchFilter": ["params.role = 'student'"],
        "orderByKey": ["metrics.`test/wer`"],
        "orderByAsc": ["true"],
        "workflowType": ["machine_learning"],
    }
    assert runs_page("7") == "#/experiments/7/runs?workflowType=machine_learning"
    assert run_page("7", "1a2b") == "#/experiments/7/runs/1a2b?workflowType=machine_learning"


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ({"frame": {"weight": 0}}, "share0.5"),
        ({"sequence": {"weight": 0}}, "T2-noseq-share0.5"),
        ({"frame": {"blank_mode": "trim"}}, "T2-trim-share0.5"),
        ({"frame": {"dilation": 3}}, "T2-symmetric3-share0.5"),
        ({"frame": {"blank_mode": "threshold"}}, "T2-threshold0.95-share0.5"),
        (
            {"frame": {"type": "logit_mse", "weighting": "confidence", "delay_frames": 2}},
            "logit_mse-confidence-delay2-share0.5",
        ),
        (
            {"frame": {"weight": 0}, "sequence": {"num_hypotheses": 4}, "teacher_share": 1},
            "4best-share1",
        ),
        (
            {"hidden": {"layers": {"a": "b"}}, "intermediate": {"layers": ["a"]}},
            "T2-hidden-heads-share0.5",
        ),
        (
            {
                "teacher_share": {"start": 0, "end": 0.5},
                "frame": {"weight": {"start": 2, "end": 1}},
                "sequence": {"weight": {"start": 0, "end": 1}},
                "hidden": {
                    "type": "mse",
                    "layers": {"a": "b"},
                    "weight": {"start": 1, "end": 0},
                },
            },
            "T2w2to1-seqw0to1-hidden_msew1to0-share0to0.5",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_of_runs_show_what_is_unusual_in_the_objective(objective, name: str) -> None:
    assert objective_name(ObjectiveParams.model_validate(objective)) == name


def test_settings_become_dotted_names() -> None:
    values = {"a": {"b": 1, "c": {"d": None}}, "e": (0.9, 1.1), "f": True}
    assert flatten(values) == {"a.b": "1", "a.c.d": "None", "e": "[0.9, 1.1]", "f": "True"}


def test_only_whole_lines_are_read_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    curve = CurveFile(path, "teacher/")
    assert curve.read() == ([], b"")
    whole = rows(1, 2)
    path.write_text(whole[:-5])
    points, content = curve.read()
    assert points == [Point("teacher/train/loss", 0.5, 1, 1001)]
    curve.taken(content)
    path.write_text(whole)
    points, content = curve.read()
    assert [point.step for point in points] == [2]
    curve.taken(content)
    assert curve.read()[0] == []


def test_points_that_did_not_arrive_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text(rows(1))
    curve = CurveFile(path)
    assert curve.read()[0] == curve.read()[0] != []


def test_a_file_that_a_resumed_stage_wrote_anew_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text(rows(1, 2, 3))
    curve = CurveFile(path)
    curve.taken(curve.read()[1])
    path.write_text(rows(1))  # shorter
    points, content = curve.read()
    assert [point.step for point in points] == [1]
    curve.taken(content)
    path.write_text(rows(7, 8, 9))  # longer, and other rows
    assert [point.step for point in curve.read()[0]] == [7, 8, 9]


def test_the_comparison_of_runs_opens_on_a_score_and_not_on_a_loss(tracking: Tracking) -> None:
    run = tracking.create_run("first", {})
    keys = ("train/loss", "train/ctc", "valid/wer")
    tracking.log_points(run, [Point(key, 0.5, step, 1000) for step in (1, 2) for key in keys])
    assert next(iter(tracking.client.get_run(run).data.metrics)) == "valid/wer"


def test_an_experiment_is_described_anew_until_a_person_does(tmp_path: Path) -> None:
    tracking = Tracking(RegisterParams(experiment="described"), tmp_path)

    def shown() -> str:
        tags = tracking.client.get_experiment(tracking.experiment_id).tags
        return str(tags["mlflow.note.content"])

    for text in ("the first run", "the second"):
        tracking.describe_experiment(text)
        assert shown() == text
    tracking.client.set_experiment_tag(tracking.experiment_id, "mlflow.note.content", "mine")
    tracking.describe_experiment("the third")
    assert shown() == "mine"


def test_the_same_points_twice_are_one_curve(tracking: Tracking) -> None:
    run = tracking.create_run("twice", {})
    points = [Point("train/loss", 1.0 / step, step, 5000 + step) for step in range(1, 1202)]
    tracking.log_points(run, points[:700])  # what was followed live
    tracking.log_points(run, points)
    history = tracking.client.get_metric_history(run, "train/loss")
    assert sorted(item.step for item in history) == list(range(1, 1202))


def test_a_child_is_created_once_under_its_parent(tracking: Tracking) -> None:
    parent = tracking.create_run("parent", {})
    first = tracking.child(parent, "students/conv", "conv")
    assert tracking.child(parent, "students/conv", "conv") == first
    assert tracking.child(parent, "controls/conv", "conv-control") != first
    other = tracking.create_run("another parent", {})
    assert tracking.child(other, "students/conv", "conv") != first
    tracking.end_run(parent)
    assert tracking.client.get_run(first).info.status == "FINISHED"
    assert not tracking.is_open(parent)
    assert tracking.is_open(other)
    assert not tracking.is_open("0" * 32)


def test_settings_metrics_tags_and_data_arrive(tracking: Tracking) -> None:
    run = tracking.create_run("values", {"a": "b"})
    settings = {f"section.key{number}": str(number) for number in range(230)}
    for _ in range(2):  # a second time changes nothing
        tracking.log_values(
            run, params=settings, metrics={"test/wer": 0.125}, tags={"git.commit": "abc"}
        )
        tracking.log_data(
            run, [DataSource("an4-train", "f" * 32, "training", "data/prepared", {"num_rows": 3})]
        )
    found = tracking.client.get_run(run)
    assert found.data.params == settings
    assert found.data.metrics == {"test/wer": 0.125}
    assert found.data.tags["git.commit"] == "abc"
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("an4-train", "f" * 32)
    assert {tag.key: tag.value for tag in dataset.tags}["mlflow.data.context"] == "training"


def test_artifacts_stay_in_the_workspace(tracking: Tracking) -> None:
    run = tracking.create_run("artifact", {})
    tracking.client.log_text(run, "hello", "note.txt")
    (found,) = (tracking.root / "mlartifacts").rglob("note.txt")
    assert found.read_text() == "hello"


def test_a_server_that_is_down_is_said_so_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://user:secret@127.0.0.1:{port}"
    start = time.monotonic()
    with pytest.raises(TrackingError, match="results are safe.*run make register") as caught:
        Tracking(RegisterParams(tracking_uri=uri), tmp_path)
    assert time.monotonic() - start < 30
    assert "secret" not in str(caught.value)


def test_two_processes_may_create_the_store_at_once(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from distillery.tracking.store import Tracking\n"
        "from distillery.params.register import RegisterParams\n"
        "print(Tracking(RegisterParams(experiment='race'), Path.cwd()).experiment_id)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1] != ""


def test_a_deleted_experiment_is_named(tracking: Tracking) -> None:
    gone = Tracking(RegisterParams(experiment="gone"), tracking.root)
    gone.client.delete_experiment(gone.experiment_id)
    with pytest.raises(TrackingError, match="'gone': was deleted; restore it"):
        Tracking(RegisterParams(experiment="gone"), tracking.root)


def test_a_servers_password_comes_from_the_environment_and_shows_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []

    class Strict(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers["Authorization"])
            self.send_error(401, "no such user")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    with HTTPServer(("127.0.0.1", 0), Strict) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(TrackingError, match="401") as caught:
            Tracking(RegisterParams(tracking_uri=uri), tmp_path)
        server.shutdown()
    assert told == [f"Basic {base64.b64encode(b'me:hunter2').decode()}"]
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
