"""A saved model as a folder for sherpa-onnx, by the command."""

from pathlib import Path

import pytest
import sherpa_onnx

from distillery.commands import main as cli
from distillery.serve.sherpa import FILES, STREAMING_FILE
from tests.tiny import RATE_HZ, speak
from tests.unit.evaluate.test_evaluate import write_prepared
from tests.unit.serve.test_sherpa import NUM_MELS, SMALL, heard, student


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a saved model."""
    (tmp_path / "model").mkdir()
    student(SMALL).save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_folder_loads_in_sherpa_onnx(workspace: Path, capsys) -> None:
    write_prepared(workspace / "data/prepared", [("v", None, "valid", "a", 0.5)])
    assert cli.main(["export", "sherpa", "--model", "model"]) == 0
    output = capsys.readouterr()
    written = [line.split("\t")[0] for line in output.out.splitlines()]
    names = [name for name in FILES if name != STREAMING_FILE]
    assert written == [f"exported/sherpa/{name}" for name in names] and output.err == ""
    recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model="exported/sherpa/model.onnx",
        tokens="exported/sherpa/tokens.txt",
        sample_rate=RATE_HZ,
        feature_dim=NUM_MELS,
    )
    waveforms = [speak("abc cab", 3)]
    assert heard(recogniser, waveforms, RATE_HZ) == student(SMALL).transcribe(waveforms)


def test_a_folder_that_holds_no_model_is_named(workspace: Path, capsys) -> None:
    assert cli.main(["export", "sherpa", "--model", "nowhere"]) == 2
    assert "nowhere: holds no config.json; expected a saved model" in capsys.readouterr().err


def test_without_prepared_audio_there_are_no_integers_and_it_says_so(
    workspace: Path, capsys
) -> None:
    assert cli.main(["export", "sherpa", "--model", "model", "--out", "to/there"]) == 0
    output = capsys.readouterr()
    assert "note: no model in 8-bit integers, whose ranges need audio" in output.err
    assert sorted(item.name for item in (workspace / "to/there").iterdir()) == [
        "README.md",
        "model.onnx",
        "tokens.txt",
    ]
    assert cli.main(["export", "sherpa", "--model", "model", "--out", "to/there"]) == 0  # again


def test_a_folder_with_something_else_stays_as_it_is(workspace: Path, capsys) -> None:
    folder = workspace / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    assert cli.main(["export", "sherpa", "--model", "model", "--out", "mine"]) == 2
    assert "mine: holds 'thesis.tex', which no export wrote" in capsys.readouterr().err
    assert [item.name for item in folder.iterdir()] == ["thesis.tex"]
    (workspace / "file").write_text("")
    assert cli.main(["export", "sherpa", "--model", "model", "--out", "file"]) == 2


def test_a_student_of_other_features_is_refused_before_anything_is_written(
    workspace: Path, capsys
) -> None:
    recogniser = student(SMALL)
    recogniser.features = recogniser.features.model_copy(update={"type": "log_mel"})
    (workspace / "other").mkdir()
    recogniser.save(workspace / "other")
    assert cli.main(["export", "sherpa", "--model", "other"]) == 2
    assert "features are of type log_mel" in capsys.readouterr().err
    assert not (workspace / "exported").exists()


def test_an_unknown_runtime_is_refused(workspace: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["export", "tflite", "--model", "model"])
    assert "invalid choice: 'tflite'" in capsys.readouterr().err
