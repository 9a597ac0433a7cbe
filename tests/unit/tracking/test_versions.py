"""Versions and aliases in a real registry on SQLite."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distillery.architectures.known import STUDENTS
from distillery.data.text import Vocabulary
from distillery.errors import ModelError, TrackingError
from distillery.models.recogniser import Recogniser
from distillery.params.models import CRNNParams, FeatureParams
from distillery.params.register import RegisterParams
from distillery.serve.export import to_int8, to_onnx
from distillery.serve.onnx_recogniser import OnnxRecogniser
from distillery.serve.served import Served
from distillery.tracking.store import Tracking
from distillery.tracking.versions import (
    BUNDLE_TAG,
    Candidate,
    best_candidate,
    checked_folder,
    register_version,
    version_folder,
)
from tests.stores import put_mlflow
from tests.unit.serve.test_export import calibration


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    root = put_mlflow(tmp_path_factory.mktemp("registry"))
    return Tracking(RegisterParams(experiment="tests"), root)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    architecture = CRNNParams(type="crnn", conv_channels=4, hidden_size=8)
    vocabulary = Vocabulary.from_alphabet("abc")
    network = STUDENTS["crnn"](architecture, 16, len(vocabulary)).eval()
    folder = tmp_path_factory.mktemp("student")
    Recogniser(network, architecture, FeatureParams(num_mels=16), vocabulary, 8000).save(folder)
    return folder


def candidate(tracking: Tracking, folder: Path, md5: str, **changes: object) -> Candidate:
    plain = Candidate(
        name="conv",
        seed=2,
        folder=folder,
        md5=md5,
        run=tracking.create_run("conv", {}),
        description="a student",
        tags={"git.commit": "abc"},
        test_digest="t" * 64,
        test_wer=0.20,
        valid_wer=0.25,
        num_parameters=1000,
    )
    return replace(plain, **changes)


def test_equal_bytes_are_one_version_and_later_runs_point_at_it(
    tracking: Tracking, student: Path
) -> None:
    first = candidate(tracking, student, "a" * 32)
    again = candidate(tracking, student, "a" * 32)
    other = candidate(tracking, student, "b" * 32)
    assert register_version(tracking, "equal", first) == "1"
    assert register_version(tracking, "equal", again) == "1"
    assert register_version(tracking, "equal", other) == "2"
    tags = tracking.client.get_run(again.run).data.tags
    assert (tags["registered.version"], tags["registered.reused"]) == ("1", "true")
    version = tracking.client.get_model_version("equal", "1")
    assert version.run_id == first.run
    assert version.tags["dvc.md5"] == "a" * 32
    assert version.tags["git.commit"] == "abc"
    assert (version.tags["student"], version.tags["seed"]) == ("conv", "2")
    assert version.description == "a student"


def test_the_candidate_is_chosen_by_validation_never_by_test(
    tracking: Tracking, student: Path
) -> None:
    lucky = candidate(tracking, student, "5" * 32, name="lucky", test_wer=0.0, valid_wer=0.3)
    good = candidate(tracking, student, "6" * 32, name="good", test_wer=0.5, valid_wer=0.1)
    small = replace(good, name="small", num_parameters=10)
    assert best_candidate([lucky, good]).name == "good"
    assert best_candidate([lucky, good, small]).name == "small"


def test_a_damaged_model_is_refused(tracking: Tracking, student: Path) -> None:
    entry = candidate(tracking, student, "7" * 32)
    number = register_version(tracking, "damaged", entry)
    uri = f"models:/damaged/{number}"
    folder = checked_folder(tracking, uri)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ModelError, match=r"model\.safetensors: SHA-256"):
        checked_folder(tracking, uri)
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"models:/damaged/1: its files are gone"):
        checked_folder(tracking, uri)


def test_a_version_whose_digest_is_gone_is_not_used(tracking: Tracking, student: Path) -> None:
    number = register_version(tracking, "bare", candidate(tracking, student, "8" * 32))
    tracking.client.delete_model_version_tag("bare", number, BUNDLE_TAG)
    with pytest.raises(TrackingError, match=r"models:/bare/1: bears no tag bundle\.sha256"):
        checked_folder(tracking, "models:/bare/1")


def test_a_model_that_is_not_there_is_named(tracking: Tracking) -> None:
    with pytest.raises(TrackingError, match="models:/nobody@champion: not in the registry"):
        version_folder(tracking, "models:/nobody@champion")


def test_a_registered_model_answers_in_a_process_that_has_no_repository(
    tracking: Tracking, student: Path, tmp_path: Path
) -> None:
    exported = tmp_path / "exported"
    exported.mkdir()
    recogniser = Recogniser.load(student, STUDENTS)
    floats = to_onnx(recogniser.network, 16)
    (exported / "model.onnx").write_bytes(floats)
    (exported / "model.int8.onnx").write_bytes(to_int8(floats, calibration()))
    files = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}
    plain = candidate(tracking, student, "8" * 32)
    forms = [Served(), *(Served(name, "", {f: exported / f}) for name, f in files.items())]
    for number, form in enumerate(forms, start=1):
        entry = replace(plain, served=form)
        for _ in range(2):  # the same bytes in the same format are the same version
            assert register_version(tracking, "served", entry) == str(number)
        tags = tracking.client.get_model_version("served", str(number)).tags
        assert tags["serve.format"] == form.format
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 3000, 8000).astype(np.int16)
    soundfile.write(buffer, noise, 8000, format="WAV")
    script = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
clip = sys.stdin.read()
texts = []
for version in (3, 2, 1):  # PyTorch's last: only it may import PyTorch
    model = mlflow.pyfunc.load_model(f"models:/served/{version}")
    texts.append(model.predict([{"audio_b64": clip}] * 2))
    assert ("torch" in sys.modules) == (version == 1), version
errors = []
for bad in ("!!", "aGVsbG8="):
    try:
        model.predict([{"audio_b64": bad}])
    except mlflow.exceptions.MlflowException as error:
        errors.append([error.get_http_status_code(), error.message])
modules = [name for name in ("prefect", "dvc") if name in sys.modules]
print(json.dumps([texts, errors, modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tracking.uri],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        input=base64.b64encode(buffer.getvalue()).decode(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts, errors, modules = json.loads(done.stdout.splitlines()[-1])
    expected = recogniser.transcribe([noise.astype(np.float32) / 32768])[0]
    assert texts[1:] == [[expected, expected]] * 2
    for name in ("config.json", "tokens.txt"):
        shutil.copy(student / name, exported)
    integers = OnnxRecogniser(exported, "onnx-int8")
    assert texts[0] == integers.transcribe([noise.astype(np.float32) / 32768] * 2)
    assert [status for status, _ in errors] == [400, 400]
    assert "not base64" in errors[0][1]
    assert "clip 0: cannot be decoded" in errors[1][1]
    assert modules == []
