"""`make package` and `make page`: a registered version as a folder, and what its card knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from distillery.commands import main as cli
from distillery.errors import ModelError
from distillery.params.register import RegisterParams
from distillery.serve.packaged import PackagedRecogniser
from distillery.serve.served import load_served
from distillery.tracking.store import DataSource, Tracking
from distillery.tracking.versions import CHAMPION, checked_folder, register_version
from tests.stores import put_mlflow
from tests.tiny import RATE_HZ, speak, tiny_params, write_params
from tests.unit.serve.test_browser import CACHE
from tests.unit.serve.test_card import predictions
from tests.unit.tracking.test_fetched import recogniser
from tests.unit.tracking.test_versions import candidate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a champion whose run holds predictions."""
    root = put_mlflow(tmp_path_factory.mktemp("workspace"))
    settings = tiny_params()
    settings["package"] = {"author": "Ada", "language": "en"}
    write_params(root, settings)
    tracking = Tracking(RegisterParams(experiment="tiny"), root)
    folder = root / "student"
    folder.mkdir()
    recogniser(1).save(folder)
    registered = candidate(tracking, folder, "1" * 32)
    parent = tracking.create_run("pipeline", {})
    values = {"prepare.corpus": "manifest", "prepare.alphabet": "abc", "teacher.kind": "trained"}
    tracking.log_values(parent, params=values, metrics={}, tags={})
    tags = {"mlflow.parentRunId": parent}
    own = {"data.corpus": "/home/ada/tones", "objective.teacher_share": "0.5"}
    tracking.log_values(registered.run, params=own, metrics={"onnx/wer": 0.25}, tags=tags)
    profile = {"num_rows": 40, "seconds": 120.0, "speakers": 8}
    source = DataSource("tones-train", "d" * 32, "training", "data/prepared", profile)
    tracking.log_data(registered.run, [source])
    tracking.log_table(registered.run, predictions(), "predictions.json")
    register_version(tracking, "tiny", registered)
    tracking.client.set_registered_model_alias("tiny", CHAMPION, "1")
    return root


def test_the_champion_becomes_a_folder_with_a_card(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    for _ in range(2):  # again: what was written there may be replaced
        assert cli.main(["package", "--no-page"]) == 0
    output = capsys.readouterr()
    assert "exported/package: version 1 of tiny" in output.out
    assert "note: no model in 8-bit integers" in output.err and "no sherpa-onnx" in output.err
    folder = root / "exported/package"
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["name"] == "tiny"
    assert "Trained by: Ada" in card and "Recordings: tones, 40 utterances, 0.03 hours" in card
    assert "Teacher: `trained`" in card and "these characters alone: `abc`" in card
    assert "| speaker 3 | 8 |" in card and "`onnx` 25.0 %" in card and "browser" in card
    ours = PackagedRecogniser(folder, "model.onnx")
    waveform = speak("abc cab", 1)
    tracking = Tracking(RegisterParams(experiment="tiny"), root)
    samples = np.rint(waveform * 32768).astype(np.int16)
    theirs = load_served(checked_folder(tracking, "models:/tiny/1"))
    assert ours.text(waveform) == theirs.transcribe([samples])[0]
    soundfile.write(root / "mine.wav", waveform, RATE_HZ)
    (folder / "mine.txt").write_text("notes")
    assert cli.main(["package", "--no-page"]) == 2
    assert "holds 'mine.txt', which no SHA256SUMS there lists" in capsys.readouterr().err
    (folder / "mine.txt").unlink()


def test_without_npm_the_package_goes_without_its_page_and_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert cli.main(["package", "--out", "other"]) == 0
    assert "note: no browser: npm: not found" in capsys.readouterr().err
    assert not (root / "other/browser").exists()
    assert cli.main(["page", "--out", "page"]) == 2
    assert "error: npm: not found" in capsys.readouterr().err
    assert not (root / "page").exists()


def test_a_version_that_is_not_there_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert cli.main(["package", "--version", "9", "--out", "none"]) == 2
    assert "models:/tiny/9: not in the registry" in capsys.readouterr().err
    assert not (root / "none").exists()


def test_the_page_is_a_folder_of_static_files(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from distillery.serve.browser import runtime_files

    try:
        runtime_files(CACHE)
    except ModelError as error:
        pytest.skip(f"the page has no onnxruntime-web: {error}")
    (root / "scratch/npm").mkdir(parents=True, exist_ok=True)
    for file in CACHE.glob("*.tgz"):
        (root / "scratch/npm" / file.name).symlink_to(file)
    monkeypatch.chdir(root)
    assert cli.main(["page"]) == 0
    assert "exported/page: version 1 of tiny, " in capsys.readouterr().out
    names = {path.name for path in (root / "exported/page").iterdir()}
    assert {"index.html", "page.json", "model.onnx", "tokens.txt", "SHA256SUMS"} <= names
