"""Versions that were registered before `distillery/` had rooms: they load, transcribe and serve.

tests/expected/before_rooms.tar.xz holds two of one student, as tests/expected/make_before_rooms.py
made it with the code of then: PyTorch serves the first, ONNX Runtime the second, the champion.

What none of our commands does, and nobody can: load such a version by MLflow in a process that has
imported this `distillery`. MLflow puts the version's own code first on the path, but a process
knows one package of a name, the one that it imported first.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from distillery.architectures.known import ARCHITECTURES
from distillery.commands.main import main
from distillery.data.audio import load_audio
from distillery.models.recogniser import Recogniser
from distillery.params.whole import Params
from distillery.register.aliases import Aliases, moves, read_aliases, rollback
from distillery.serve.served import load_served
from distillery.tracking.store import Tracking
from distillery.tracking.versions import checked_folder
from flows.fetch import fetch
from tests.pipeline.conftest import ROOT, environment
from tests.pipeline.on_air import on_air
from tests.stores import put_mlflow
from tests.tiny import RATE_HZ, tiny_params, write_params

ARCHIVE = ROOT / "tests/expected/before_rooms.tar.xz"
CHAMPION = "2"
LOAD = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
clips = json.load(sys.stdin)
said = {v: list(mlflow.pyfunc.load_model(f"models:/tiny/{v}").predict(clips)) for v in "12"}
import distillery
print(json.dumps([said, distillery.__file__]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with that registry."""
    root = put_mlflow(tmp_path_factory.mktemp("before_rooms"))
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    for path in [root / "database.json", *root.rglob("MLmodel")]:
        path.write_text(path.read_text().replace("/workspace", str(root)))
    with sqlite3.connect(root / "mlflow.db") as connection:
        for table, rows in json.loads((root / "database.json").read_text()).items():
            for row in rows:
                columns, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
                connection.execute(
                    f"insert into {table} ({columns}) values ({marks})", [*row.values()]
                )
    write_params(root, tiny_params())
    return root


@pytest.fixture
def tracking(root: Path) -> Tracking:
    return Tracking(Params.model_validate(tiny_params()).register, root)


def texts(root: Path, version: str) -> dict[str, str]:
    """Return what the code of then heard in the recordings, by their names."""
    found: dict[str, str] = json.loads((root / "texts.json").read_text())[version]
    assert all(found.values())
    return found


def clips(root: Path) -> list[dict[str, str]]:
    """Return the recordings as a server takes them."""
    names = texts(root, CHAMPION)
    return [{"audio_b64": base64.b64encode((root / name).read_bytes()).decode()} for name in names]


@pytest.mark.parametrize("version", ["1", "2"])
def test_this_code_hears_what_that_code_heard(root: Path, tracking: Tracking, version: str) -> None:
    model = load_served(checked_folder(tracking, f"models:/tiny/{version}"))
    expected = texts(root, version)
    heard = model.transcribe([load_audio(root / name, RATE_HZ) for name in expected])
    assert heard == [*expected.values()]


def test_the_commands_know_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    expected = texts(root, CHAMPION)
    assert main(["transcribe", *expected]) == 0
    assert capsys.readouterr().out == "".join(
        f"{name}\t{text}\n" for name, text in expected.items()
    )
    assert main(["champion"]) == 0
    shown = capsys.readouterr().out
    for words in ("2        champion", "1        previous", "the gate: the first champion"):
        assert words in shown, shown


def test_the_champion_is_served_by_this_code(root: Path) -> None:
    with on_air(root) as server:
        status, answer = server.ask({"inputs": clips(root)})
    assert (status, json.loads(answer)) == (200, {"predictions": [*texts(root, CHAMPION).values()]})


@pytest.mark.parametrize("beside_this_code", [True, False])
def test_mlflow_alone_loads_them_with_the_code_that_they_carry(
    root: Path, tmp_path: Path, beside_this_code: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD, f"sqlite:///{root}/mlflow.db"],
        cwd=tmp_path,
        env=environment(root) | ({"PYTHONPATH": str(ROOT)} if beside_this_code else {}),
        input=json.dumps(clips(root)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, package = json.loads(done.stdout.splitlines()[-1])
    assert said == {version: [*texts(root, version).values()] for version in ("1", "2")}
    assert Path(package).is_relative_to(root / "mlartifacts")


def test_a_student_starts_from_one_and_the_teacher_may_be_one(root: Path, tmp_path: Path) -> None:
    plain = tiny_params(register={"tracking_uri": f"sqlite:///{root}/mlflow.db"})
    plain["teacher"] = {"kind": "registry", "model": "models:/tiny@champion"}
    plain["distill"]["students"]["conv"]["init"] = "models:/tiny/1"
    assert fetch(tmp_path, Params.model_validate(plain)) == [
        "teacher: models:/tiny@champion is version 2, fetched",
        "students/conv: models:/tiny/1 is version 1, fetched",
    ]
    expected = texts(root, "1")
    for reader in ("teacher", "students/conv"):
        student = Recogniser.load(tmp_path / "models/registered" / reader, ARCHITECTURES)
        heard = student.transcribe([load_audio(root / name, RATE_HZ) for name in expected])
        assert heard == [*expected.values()]


def test_the_champion_may_step_back_and_the_list_of_changes_goes_on(
    root: Path, tracking: Tracking
) -> None:
    rollback(tracking, "tiny")
    assert read_aliases(tracking, "tiny") == Aliases("1", "2", None)
    assert [move.version for move in moves(tracking, "tiny")] == ["1", "2", "1"]
    rollback(tracking, "tiny")
    assert read_aliases(tracking, "tiny") == Aliases("2", "1", None)
