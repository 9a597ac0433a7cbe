"""`make score`: a registered model on one's own recordings, on the terminal and in MLflow."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distillery.commands import main as cli
from distillery.data.manifest import audio_key
from distillery.data.spelling import SpellingRule
from distillery.params.register import RegisterParams
from distillery.tracking import trained_on
from distillery.tracking.store import PARENT_TAG, Tracking
from distillery.tracking.trained_on import pack_keys
from distillery.tracking.versions import CHAMPION, SPELLING_TAG, register_version
from tests.stores import put_mlflow
from tests.tiny import RATE_HZ, speak, tiny_params, write_params
from tests.unit.tracking.test_fetched import recogniser
from tests.unit.tracking.test_versions import candidate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a champion and a folder of recordings."""
    root = put_mlflow(tmp_path_factory.mktemp("workspace"))
    write_params(root, tiny_params())
    tracking = Tracking(RegisterParams(experiment="tiny"), root)
    folder = root / "student"
    folder.mkdir()
    recogniser(1).save(folder)
    register_version(tracking, "tiny", candidate(tracking, folder, "1" * 32))
    tracking.client.set_registered_model_alias("tiny", CHAMPION, "1")
    mine = root / "mine"
    mine.mkdir()
    lines = ["path,text,speaker"]
    for seed, text in enumerate(["ab", "cab ab", "ba"]):
        soundfile.write(mine / f"{seed}.wav", speak(text, seed), RATE_HZ)
        lines.append(f"{seed}.wav,{text},s{seed % 2}")
    (mine / "manifest.csv").write_text("\n".join(lines))
    return root


def run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str, str]:
    monkeypatch.chdir(root)
    status = cli.main(["score", *more])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_the_champion_is_scored_and_the_run_stands_below_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, _ = run(root, monkeypatch, capsys, "mine")
    assert status == 0
    assert "tiny version 1 (student conv, seed 2, as torch) on mine/manifest.csv: 3" in said
    assert "4 words by 2 speakers" in " ".join(said.split())
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.split()}
    assert (rows["all"][1:3], rows["s0"][1:3], rows["s1"][1:3]) == (
        ["3", "4"],
        ["2", "2"],
        ["1", "2"],
    )
    tracking = Tracking(RegisterParams(experiment="tiny"), root)
    logged = tracking.client.get_run(said.split()[-1])
    version = tracking.client.get_model_version("tiny", "1")
    assert logged.data.tags[PARENT_TAG] == version.run_id
    assert logged.data.tags["distillery.role"] == "score"
    assert logged.data.tags["registered.version"] == "1"
    assert logged.info.status == "FINISHED"
    shown = float(rows["all"][3]) / 100
    assert logged.data.metrics["score/wer"] == pytest.approx(shown, abs=1e-3)
    assert {"score/wer_low", "score/wer_high", "score/cer"} <= logged.data.metrics.keys()
    names = {item.path for item in tracking.client.list_artifacts(logged.info.run_id)}
    assert names == {"predictions.json", "per_speaker.csv"}


@pytest.mark.parametrize("version", ["1", "champion", "models:/tiny/1"])
def test_a_version_may_be_asked_for(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
) -> None:
    status, said, _ = run(root, monkeypatch, capsys, "mine/manifest.csv", "--version", version)
    assert (status, said.startswith("tiny version 1 (")) == (0, True)


def test_a_version_or_folder_that_is_not_there_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, error = run(root, monkeypatch, capsys, "mine", "--version", "7")
    assert (status, said) == (2, "")
    assert "models:/tiny/7: not in the registry" in error
    status, _, error = run(root, monkeypatch, capsys, "mine", "--version", "challenger")
    assert status == 2 and "models:/tiny@challenger" in error
    status, _, error = run(root, monkeypatch, capsys, "nowhere")
    assert status == 2 and "nowhere: no such folder or manifest" in error


@pytest.mark.parametrize("version", [[], ["--version", "1"], ["--version", "7"]])
def test_export_asks_the_same_registry(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: list[str],
) -> None:
    monkeypatch.chdir(root)
    assert cli.main(["export", "sherpa", *version]) == 2
    # The version of these tests hears other features.
    missing = "models:/tiny/7: not in the registry"
    expected = missing if "7" in version else "its features are of type log_mel"
    assert expected in capsys.readouterr().err
    assert not (root / "exported").exists()


def test_recordings_that_the_model_learnt_from_are_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [soundfile.read(root / f"mine/{seed}.wav", dtype="int16")[0] for seed in range(2)]
    learnt = np.load(io.BytesIO(pack_keys(map(audio_key, samples))))
    monkeypatch.setattr(trained_on, "read_keys", lambda _: learnt)
    _, said, _ = run(root, monkeypatch, capsys, "mine")
    assert "the model learnt from 2 of these recordings" in said
    monkeypatch.setattr(trained_on, "read_keys", lambda _: None)  # of old, and nothing is prepared
    _, said, _ = run(root, monkeypatch, capsys, "mine")
    assert "learnt from" not in said


def test_a_recording_that_cannot_be_read_costs_no_other(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "mine/bad.wav").write_bytes(b"no sound at all")
    lines = "path,text\nbad.wav,ab\n0.wav,ab\n"
    (root / "mine/bad.csv").write_text(lines)
    status, said, error = run(root, monkeypatch, capsys, "mine/bad.csv")
    assert status == 1
    assert "1 recordings could not be decoded, and were left out" in said
    assert error.startswith("error: bad.wav: ")


def test_expected_phrases_have_their_accuracy_on_the_terminal_and_in_mlflow(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "mine/told.csv").write_text('path,expected\n0.wav,ab\n1.wav,"ab; 2"\n2.wav,\n')
    rule = SpellingRule("cardinals", "spell", "en")
    tracking = Tracking(RegisterParams(experiment="tiny"), root)
    tracking.client.set_model_version_tag("tiny", "1", SPELLING_TAG, json.dumps(rule.entries))
    status, said, _ = run(root, monkeypatch, capsys, "mine/told.csv")
    assert status == 0
    assert "2 utterances, 3 expected phrases" in " ".join(said.split())
    assert "phrase accuracy %" in said and "WER" not in said and "CER" not in said
    assert "1 recordings without expected phrases were left out" in said
    assert "the model cannot write" in said  # the w and o of two
    run_id = said.split()[-1]
    metrics = tracking.client.get_run(run_id).data.metrics
    assert metrics["score/phrase_accuracy"] == pytest.approx(1 - metrics["score/wer"])
    assert metrics["score/phrase_accuracy_low"] <= metrics["score/phrase_accuracy_high"]
    tracking.client.delete_model_version_tag("tiny", "1", SPELLING_TAG)
