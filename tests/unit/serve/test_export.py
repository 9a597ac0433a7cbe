import json
import subprocess
import sys
import tracemalloc
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch

from distillery.architectures.known import ARCHITECTURES
from distillery.data.audio import to_int16
from distillery.data.features import LogMel
from distillery.data.manifest import audio_key
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.models.recogniser import Recogniser
from distillery.params.models import FeatureParams
from distillery.serve.export import (
    NUM_CALIBRATION_UTTERANCES,
    OUTPUT_AXES,
    RECURRENT_OPERATORS,
    calibration_waveforms,
    to_int8,
    to_onnx,
)
from distillery.serve.log_mel import BLOCK_FRAMES, NumpyLogMel
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from tests.unit.evaluate.test_evaluate import write_prepared
from tests.unit.models.test_layers import ALL, NUM_MELS
from tests.unit.models.test_recogniser import noise

IDS = [f"{index}-{params.type}" for index, params in enumerate(ALL)]


def recogniser_of(architecture, normalise: str = "bands") -> Recogniser:
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_alphabet("abc")
    network = ARCHITECTURES[architecture.type](architecture, NUM_MELS, len(vocabulary)).eval()
    for module in network.modules():  # as after training: else folding them changes nothing
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    features = FeatureParams(num_mels=NUM_MELS, normalise=normalise)
    return Recogniser(network, architecture, features, vocabulary, 8000)


def calibration() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(1, n, NUM_MELS)).astype(np.float32) for n in (40, 75)]


class Exported(NamedTuple):
    recogniser: Recogniser
    folder: Path
    floats: OnnxRecogniser
    integers: OnnxRecogniser


@pytest.fixture(scope="module", params=ALL, ids=IDS)
def exported(request, tmp_path_factory) -> Exported:
    recogniser = recogniser_of(request.param)
    folder = tmp_path_factory.mktemp(request.param.type)
    recogniser.save(folder)
    floats = to_onnx(recogniser.network, NUM_MELS)
    (folder / MODEL_FILES["onnx"]).write_bytes(floats)
    (folder / MODEL_FILES["onnx-int8"]).write_bytes(to_int8(floats, calibration()))
    forms = (OnnxRecogniser(folder, name) for name in MODEL_FILES)
    return Exported(recogniser, folder, *forms)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 2, 57, 58, 131])
def test_both_forms_give_what_the_network_gives(exported, batch: int, num_frames: int) -> None:
    random = np.random.default_rng(num_frames)
    features = random.normal(size=(batch, num_frames, NUM_MELS)).astype(np.float32)
    lengths = torch.full((batch,), num_frames)
    expected = exported.recogniser.forward(torch.from_numpy(features), lengths).log_probs
    np.testing.assert_allclose(exported.floats.run(features), expected, atol=2e-5)
    found = exported.integers.run(features)
    assert found.shape == expected.shape
    divergence = (np.exp(expected) * (expected - found)).sum(axis=-1).mean()
    assert 0 < divergence < 0.05  # nat; not 0, or nothing was quantised


def test_a_whole_utterance_gives_what_the_recogniser_gives(exported) -> None:
    recogniser, onnx_recogniser = exported.recogniser, exported.floats
    waveforms = [noise(8000), noise(1), noise(4321)]
    found, expected = onnx_recogniser.log_probs(waveforms), recogniser.log_probs(waveforms)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-3)
    assert onnx_recogniser.transcribe(waveforms) == recogniser.transcribe(waveforms)
    assert onnx_recogniser.frame_shift_seconds == recogniser.frame_shift_seconds


def test_equal_students_are_exported_as_equal_bytes(exported) -> None:
    network = exported.recogniser.network
    before = exported.recogniser.weights_digest
    floats = to_onnx(network, NUM_MELS)
    assert floats == exported.floats.path.read_bytes()
    assert to_int8(floats, calibration()) == exported.integers.path.read_bytes()
    assert exported.recogniser.weights_digest == before
    assert not any(module.training for module in network.modules())


def test_batch_norm_is_folded_and_the_file_is_a_valid_one(exported) -> None:
    for form in (exported.floats, exported.integers):
        model = onnx.load(str(form.path))
        onnx.checker.check_model(model, full_check=True)
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_every_weight_that_is_multiplied_has_8_bits(exported) -> None:
    graph = onnx.load(str(exported.integers.path)).graph
    floats = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    multiplied = {
        name
        for node in graph.node
        if node.op_type in OUTPUT_AXES
        for name in node.input[1 : 3 if node.op_type in RECURRENT_OPERATORS else 2]
    }
    assert multiplied and not multiplied & floats


def test_calibration_takes_validation_utterances_by_their_digest(tmp_path: Path) -> None:
    spoken = [(f"v{index}", None, "valid", "a", 0.1 + index / 800) for index in range(40)]
    data = write_prepared(tmp_path / "all", [*spoken, ("t", None, "train", "a", 0.9)])
    chosen = [audio_key(to_int16(item)) for item in calibration_waveforms(data)]
    keys = sorted(data.split("valid")["audio_key"], key=lambda k: sha256(k.encode()).hexdigest())
    assert chosen == keys[:NUM_CALIBRATION_UTTERANCES]
    unvalidated = write_prepared(tmp_path / "few", [("t", None, "train", "a", 0.5)])
    assert [len(item) for item in calibration_waveforms(unvalidated)] == [4000]


@pytest.mark.parametrize("normalise", ["bands", "level", "running"])
@pytest.mark.parametrize("rate", [8000, 11025, 16000])
@pytest.mark.parametrize("num_samples", [1, 160, 12345])
def test_features_without_pytorch_are_the_same(normalise: str, rate: int, num_samples: int) -> None:
    params = FeatureParams(num_mels=24, normalise=normalise)
    waveform = noise(num_samples)
    expected = LogMel(params, rate)(torch.from_numpy(waveform)).numpy()
    found = NumpyLogMel(params, rate)(waveform)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_features_of_a_long_recording_take_little_memory_and_are_the_same() -> None:
    params = FeatureParams(num_mels=24)
    extractor, waveform = NumpyLogMel(params, 8000), noise(8000 * 60)
    expected = LogMel(params, 8000)(torch.from_numpy(waveform)).numpy()
    tracemalloc.start()
    found = extractor(waveform)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert len(found) > 2 * BLOCK_FRAMES
    assert peak_bytes < 5 * waveform.nbytes  # with all frames at once it is more than 7 times


def saved(folder: Path) -> Path:
    recogniser = recogniser_of(ALL[2])
    recogniser.save(folder)
    (folder / MODEL_FILES["onnx"]).write_bytes(to_onnx(recogniser.network, NUM_MELS))
    return folder


def test_a_damaged_network_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path) / MODEL_FILES["onnx"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.onnx: cannot be loaded: .*; export the student"):
        OnnxRecogniser(tmp_path, "onnx")


def test_a_missing_network_is_an_error_that_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.int8\.onnx: no such file; run make evaluate"):
        OnnxRecogniser(saved(tmp_path), "onnx-int8")


def test_a_network_of_other_tokens_is_refused(tmp_path: Path) -> None:
    Vocabulary.from_alphabet("abcdef").save(saved(tmp_path) / "tokens.txt")
    with pytest.raises(ModelError, match="turns 16 mel bands into 5 tokens, expected 16 and 8"):
        OnnxRecogniser(tmp_path, "onnx")


@pytest.mark.parametrize("change", [{"features": 3}, {"architecture": {}}, {"sample_rate_hz": "x"}])
def test_an_unusable_configuration_is_refused(tmp_path: Path, change: dict) -> None:
    path = saved(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=r"config\.json: cannot be used"):
        OnnxRecogniser(tmp_path, "onnx")
    path.unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        OnnxRecogniser(tmp_path, "onnx")


def test_audio_at_another_rate_is_refused(tmp_path: Path) -> None:
    recogniser = OnnxRecogniser(saved(tmp_path), "onnx")
    recogniser.check_sample_rate(8000)
    with pytest.raises(ModelError, match="made for 8000 Hz, the audio has 16000 Hz"):
        recogniser.check_sample_rate(16000)


def test_an_exported_student_runs_without_pytorch(tmp_path: Path) -> None:
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from distillery.serve.onnx_recogniser import OnnxRecogniser\n"
        "import distillery.data.audio\n"
        f"OnnxRecogniser(Path({str(saved(tmp_path))!r}), 'onnx')"
        ".transcribe([numpy.zeros(800, numpy.float32)])\n"
        "assert 'torch' not in sys.modules and 'torchaudio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
