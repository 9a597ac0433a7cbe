"""A folder to hand over: the example where nothing else is installed, checksums, other forms."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import sherpa_onnx
import soundfile

from distillery.errors import ModelError
from distillery.serve.export import to_int8, to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES
from distillery.serve.package import (
    REQUIREMENTS,
    Form,
    Student,
    check_target,
    names_in,
    write_package,
)
from distillery.serve.served import load_served
from tests.tiny import RATE_HZ, speak
from tests.tiny_decoder import put_decoder
from tests.unit.serve.test_sherpa import NUM_MELS, SMALL, heard, student

WAVEFORMS = [speak("abc cab", 3), speak("ba ab", 4)]


@functools.cache
def needed(names: tuple[str, ...]) -> set[str]:
    """Return packages and all that they need, those of extras and other systems left out."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # of another system
            continue
        found.add(name)
        todo += [re.split(r"[^\w.-]", item)[0] for item in requirements if "extra ==" not in item]
    return found


def put_packages(folder: Path, names: Sequence[str]) -> None:
    """Link packages that are installed here, and what they need, into a folder of their own."""
    folder.mkdir()
    for name in needed(tuple(names)):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top in ("..", "__pycache__") or (folder / top).exists():
                continue
            (folder / top).symlink_to(Path(str(distribution(name).locate_file(top))).resolve())


def run_alone(folder: Path, packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where nothing is installed but some packages."""
    return subprocess.run(
        [sys.executable, "-S", "-s", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(packages), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student as it is registered: to be served in integers, with a decoder."""
    folder = tmp_path_factory.mktemp("saved")
    model = student(SMALL)
    model.save(folder)
    put_decoder(folder)
    features = [model.extract([waveform])[0].numpy() for waveform in WAVEFORMS]
    content = to_int8(to_onnx(model.network, NUM_MELS), features)
    (folder / MODEL_FILES["onnx-int8"]).write_bytes(content)
    (folder / "served.json").write_text('{"format": "onnx-int8"}')
    return folder


@pytest.fixture(scope="module")
def package(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    packed = Student.of(saved, student(SMALL), WAVEFORMS)
    form = Form("tones", "of a test")
    notes = write_package(folder, packed, form, WAVEFORMS, None, lambda sizes: f"{len(sizes)}\n")
    assert notes == []
    return folder


def test_the_example_runs_where_nothing_else_is_installed(
    package: Path, saved: Path, tmp_path: Path
) -> None:
    names = re.findall(r"^\w+", REQUIREMENTS, re.MULTILINE)
    assert names == ["numpy", "onnxruntime", "soundfile"]
    put_packages(tmp_path / "site", names)
    lines = len((package / "example.py").read_text().splitlines())
    assert lines <= 30
    paths = []
    for number, waveform in enumerate(WAVEFORMS):
        paths.append(str(tmp_path / f"{number}.wav"))
        soundfile.write(paths[-1], waveform, RATE_HZ)
    for module in ("torch", "scipy", "pydantic", "distillery"):
        assert run_alone(package, tmp_path / "site", "-c", f"import {module}").returncode == 1
    done = run_alone(package, tmp_path / "site", "example.py", *paths)
    assert done.returncode == 0, done.stderr
    texts = dict(line.split("\t") for line in done.stdout.splitlines())
    samples = [soundfile.read(path, dtype="int16")[0] for path in paths]
    assert list(texts.values()) == load_served(saved).transcribe(samples)
    assert any(texts.values())
    soundfile.write(tmp_path / "other.wav", WAVEFORMS[0], 16000)
    done = run_alone(package, tmp_path / "site", "example.py", str(tmp_path / "other.wav"))
    assert done.returncode == 1 and "16000 Hz, expected 8000 Hz" in done.stderr


def test_checksums_are_of_all_files(package: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=package, check=False
    )
    assert done.returncode == 0
    listed = {line.split("  ")[1] for line in (package / "SHA256SUMS").read_text().splitlines()}
    assert listed == {name for name in names_in(package) if "__pycache__" not in name} - {
        "SHA256SUMS"
    }


def test_the_served_network_is_the_registered_one_and_the_other_is_exported(
    package: Path, saved: Path
) -> None:
    name = MODEL_FILES["onnx-int8"]
    assert (package / name).read_bytes() == (saved / name).read_bytes()
    assert (package / MODEL_FILES["onnx"]).stat().st_size > (package / name).stat().st_size
    for file in ("config.json", "tokens.txt", "decoder.lm", "decoder.json"):
        assert (package / file).read_bytes() == (saved / file).read_bytes()


def test_the_form_for_sherpa_onnx_loads(package: Path) -> None:
    recogniser = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(package / "sherpa-onnx/model.onnx"),
        tokens=str(package / "sherpa-onnx/tokens.txt"),
        sample_rate=RATE_HZ,
        feature_dim=NUM_MELS,
    )
    assert heard(recogniser, WAVEFORMS, RATE_HZ) == student(SMALL).transcribe(WAVEFORMS)


def test_a_student_of_other_features_has_no_such_form_and_it_says_so(
    saved: Path, tmp_path: Path
) -> None:
    model = student(SMALL)
    model.features = model.features.model_copy(update={"type": "log_mel"})
    packed = Student(model, {"model.onnx": b""}, "model.onnx")
    form = Form("tones", "of a test")
    (note,) = write_package(tmp_path, packed, form, [], None, lambda _: "card")
    assert note.startswith("no sherpa-onnx: model: its features are of type log_mel")
    assert not (tmp_path / "sherpa-onnx").exists()


def test_without_audio_there_are_no_new_integers(saved: Path) -> None:
    (saved / "served.json").rename(saved / "not-served.json")
    try:
        found = Student.of(saved, student(SMALL), [])
        assert found.model_file == "model.onnx"  # PyTorch serves it: its floats say the same
        assert MODEL_FILES["onnx-int8"] in found.files  # it was there
        assert MODEL_FILES["onnx-int8"] not in found.page_files
    finally:
        (saved / "not-served.json").rename(saved / "served.json")


def test_a_folder_with_something_else_is_refused(package: Path, tmp_path: Path) -> None:
    check_target(tmp_path / "new")
    check_target(package)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match=r"holds 'thesis.tex', which no SHA256SUMS there lists"):
        check_target(tmp_path)
    with pytest.raises(ModelError, match="is no folder"):
        check_target(tmp_path / "thesis.tex")
