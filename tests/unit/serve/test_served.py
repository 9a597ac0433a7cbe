from pathlib import Path

import pytest

from distillery.errors import ModelError
from distillery.serve.export import to_int8, to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.serve.served import Served, choose_format, load_served, served_format
from distillery.serve.torch_transcriber import TorchTranscriber
from distillery.tracking.bundle import check_bundle, write_bundle
from tests.unit.models.test_recogniser import noise, small
from tests.unit.serve.test_export import calibration

IN_PYTORCH = 0.20
EXPORTED = {"onnx": 0.20, "onnx-int8": 0.21}


@pytest.mark.parametrize(
    ("wanted", "max_loss", "chosen"),
    [
        ("torch", 0.0, "torch"),
        ("onnx", 0.0, "onnx"),
        ("onnx-int8", 0.02, "onnx-int8"),
        ("onnx-int8", 0.005, "onnx"),
    ],
)
def test_the_format_wanted_is_served_unless_it_loses_too_much(
    tmp_path: Path, wanted: str, max_loss: float, chosen: str
) -> None:
    served = choose_format(wanted, IN_PYTORCH, EXPORTED, tmp_path, max_loss)
    assert served.format == chosen
    files = {MODEL_FILES[chosen]: tmp_path / MODEL_FILES[chosen]} if chosen != "torch" else {}
    assert served.files == files
    if chosen != wanted:
        assert served.reason == (
            "onnx-int8 loses 1.00 points of WER on the test split, 0.50 are allowed "
            "(register.max_format_loss)"
        )


def test_where_every_exported_format_loses_too_much_pytorch_serves(tmp_path: Path) -> None:
    worse = {"onnx": 0.5, "onnx-int8": 0.4}
    served = choose_format("onnx-int8", IN_PYTORCH, worse, tmp_path, 0.005)
    assert (served.format, served.contents, served.digest) == ("torch", {}, "")
    assert "onnx loses 30.00 points" in served.reason


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A saved student, and where it was exported."""
    saved, exported = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("exported")
    recogniser = small()
    recogniser.save(saved)
    floats = to_onnx(recogniser.network, 16)
    (exported / MODEL_FILES["onnx"]).write_bytes(floats)
    (exported / MODEL_FILES["onnx-int8"]).write_bytes(to_int8(floats, calibration()))
    return saved, exported


def bundle(folders: tuple[Path, Path], target: Path, wanted: str) -> Path:
    saved, exported = folders
    write_bundle(saved, target, choose_format(wanted, IN_PYTORCH, EXPORTED, exported, 1.0).contents)
    check_bundle(target)
    return target


@pytest.mark.parametrize("wanted", ["torch", "onnx", "onnx-int8"])
def test_a_bundle_is_loaded_in_the_format_it_is_served_in(
    folders: tuple[Path, Path], tmp_path: Path, wanted: str
) -> None:
    target = bundle(folders, tmp_path / "bundle", wanted)
    assert served_format(target) == wanted
    model = load_served(target)
    assert isinstance(model, TorchTranscriber if wanted == "torch" else OnnxRecogniser)
    assert len(model.transcribe([noise(4000), noise(100)])) == 2
    assert (target / "model.safetensors").exists()  # others start from it
    held = {name for name in MODEL_FILES.values() if (target / name).exists()}
    assert held == ({MODEL_FILES[wanted]} if wanted != "torch" else set())


def test_one_changed_byte_of_an_exported_file_is_found(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    target = bundle(folders, tmp_path / "bundle", "onnx-int8")
    path = target / MODEL_FILES["onnx-int8"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.int8\.onnx: SHA-256 .* the file is damaged"):
        check_bundle(target)


@pytest.mark.parametrize("content", ["{", "{}", "3", '{"format": "tflite"}'])
def test_a_bundle_that_names_no_format_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "served.json").write_text(content)
    with pytest.raises(ModelError, match=r"served\.json: .*; register the model again"):
        served_format(tmp_path)


def test_equal_files_have_equal_digests(folders: tuple[Path, Path]) -> None:
    one, other = (
        choose_format(name, IN_PYTORCH, EXPORTED, folders[1], 1.0) for name in ("onnx", "onnx-int8")
    )
    assert one.digest == Served("onnx", "another reason", one.files).digest != other.digest
