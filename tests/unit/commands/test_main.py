from pathlib import Path

import pytest
import torch

from distillery.architectures.known import STUDENTS
from distillery.commands import main as cli
from distillery.data.text import Vocabulary
from distillery.models.recogniser import Recogniser
from distillery.params.models import CRNNParams, FeatureParams
from distillery.tracking.bundle import write_bundle
from tests.conftest import WriteRecording


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    architecture = CRNNParams(type="crnn", conv_channels=4, hidden_size=8)
    vocabulary = Vocabulary.from_alphabet("abc")
    network = STUDENTS["crnn"](architecture, 16, len(vocabulary)).eval()
    folder = tmp_path / "model"
    folder.mkdir()
    Recogniser(network, architecture, FeatureParams(num_mels=16), vocabulary, 8000).save(folder)
    return folder


def test_each_file_is_one_line_with_its_text(
    model: Path,
    tmp_path: Path,
    write_recording: WriteRecording,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [tmp_path / "a.wav", tmp_path / "b.flac"]
    for seed, file in enumerate(files):
        write_recording(file, 0.5, 16000, seed)
    assert cli.main(["transcribe", "--model", str(model), *map(str, files)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    recogniser = Recogniser.load(model, STUDENTS)
    from distillery.data.audio import load_audio

    expected = [recogniser.transcribe([load_audio(file, 8000)])[0] for file in files]
    assert lines == [[str(file), text] for file, text in zip(files, expected, strict=True)]


def test_a_bad_file_is_reported_and_the_others_are_done(
    model: Path,
    tmp_path: Path,
    write_recording: WriteRecording,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = tmp_path / "good.wav", tmp_path / "bad.wav"
    write_recording(good, 0.5)
    bad.write_bytes(b"no sound at all")
    missing = tmp_path / "missing.wav"
    arguments = ["transcribe", "--model", str(model), str(bad), str(missing), str(good)]
    assert cli.main(arguments) == 1
    output = capsys.readouterr()
    assert output.out.startswith(f"{good}\t")
    assert len(output.out.splitlines()) == 1
    assert f"error: {bad}: cannot be decoded" in output.err
    assert f"error: {missing}: no such file" in output.err


def test_a_damaged_bundle_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(model, bundle)
    (bundle / "tokens.txt").write_text("x\n")
    assert cli.main(["transcribe", "--model", str(bundle), "a.wav"]) == 2
    assert "tokens.txt: SHA-256" in capsys.readouterr().err


def test_a_missing_model_and_missing_settings_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["transcribe", "--model", "nowhere", "a.wav"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert cli.main(["transcribe", "a.wav"]) == 2
    assert "params.yaml: no such file" in capsys.readouterr().err
