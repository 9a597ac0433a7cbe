import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distillery.architectures.known import ARCHITECTURES, STUDENTS, TEACHERS
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.models.fingerprint import fingerprint, read_fingerprint
from distillery.models.recogniser import Recogniser
from distillery.params.models import CRNNParams, FeatureParams
from tests.unit.models.test_layers import ALL


def small(seed: int = 0) -> Recogniser:
    torch.manual_seed(seed)
    architecture = CRNNParams(type="crnn", conv_channels=4, hidden_size=8)
    vocabulary = Vocabulary.from_alphabet("abc")
    network = STUDENTS["crnn"](architecture, 16, len(vocabulary)).eval()
    return Recogniser(network, architecture, FeatureParams(num_mels=16), vocabulary, 8000)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)


def test_a_saved_recogniser_answers_as_before(tmp_path: Path) -> None:
    original = small()
    original.save(tmp_path)
    loaded = Recogniser.load(tmp_path, ARCHITECTURES)
    waveforms = [noise(4000), noise(7000)]
    for before, after in zip(
        original.log_probs(waveforms), loaded.log_probs(waveforms), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    assert loaded.transcribe(waveforms) == original.transcribe(waveforms)
    assert loaded.weights_digest == original.weights_digest
    assert loaded.frame_shift_seconds == pytest.approx(0.04)


@pytest.mark.parametrize("architecture", ALL, ids=lambda p: p.type)
def test_every_architecture_is_saved_and_loaded_with_equal_outputs(
    tmp_path: Path, architecture
) -> None:
    vocabulary = Vocabulary.from_alphabet("abc")
    network = ARCHITECTURES[architecture.type](architecture, 16, len(vocabulary)).eval()
    features = FeatureParams(num_mels=16, normalise="running")
    original = Recogniser(network, architecture, features, vocabulary, 8000)
    original.save(tmp_path)
    loaded = Recogniser.load(tmp_path, ARCHITECTURES)
    assert loaded.config == original.config
    (before,), (after,) = original.log_probs([noise(4000)]), loaded.log_probs([noise(4000)])
    np.testing.assert_array_equal(before, after)


def test_log_probs_are_normalised_and_have_a_frame_per_shift() -> None:
    recogniser = small()
    (output,) = recogniser.log_probs([noise(8000)])
    assert output.shape == (26, 5)  # 101 feature frames, every fourth
    np.testing.assert_allclose(np.exp(output).sum(axis=1), 1, rtol=1e-5)


def test_a_batch_does_not_change_an_answer() -> None:
    recogniser = small()
    together = recogniser.log_probs([noise(3000), noise(9000)])[0]
    np.testing.assert_allclose(together, recogniser.log_probs([noise(3000)])[0], atol=1e-5)


def test_equal_recognisers_are_saved_as_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        small().save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "holds no config.json"),
        ("config.json", b"{}", "config.json: cannot be used"),
        ("config.json", b"{", "config.json: cannot be used"),
        ("model.safetensors", None, "model.safetensors: no such file"),
        ("model.safetensors", b"short", "model.safetensors: does not fit"),
        ("tokens.txt", None, "tokens.txt: no such file"),
        ("tokens.txt", b"a\n", "expected '<blank>'"),
        ("tokens.txt", b"<blank>\na\na\n", "a token occurs twice"),
        ("tokens.txt", b"<blank>\n|\na\n", "model.safetensors: does not fit"),
    ],
)
def test_incomplete_or_wrong_files_are_named(tmp_path: Path, file, content, message) -> None:
    small().save(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        Recogniser.load(tmp_path, ARCHITECTURES)


def test_an_architecture_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path)
    with pytest.raises(ModelError, match="architecture 'crnn', expected one of"):
        Recogniser.load(tmp_path, TEACHERS)


def test_another_sample_rate_is_refused_with_both() -> None:
    small().check_sample_rate(8000)
    with pytest.raises(ModelError, match="made for 8000 Hz, the audio has 16000 Hz"):
        small().check_sample_rate(16000)


def test_one_changed_weight_is_another_fingerprint() -> None:
    one, other = small(), small()
    assert fingerprint(one) == fingerprint(other)
    with torch.no_grad():
        other.network.output.bias[0] += 1e-3
    before, after = fingerprint(one), fingerprint(other)
    assert replace(after, weights=before.weights, fingerprint=before.fingerprint) == before
    assert (after.weights, after.fingerprint) != (before.weights, before.fingerprint)


def test_a_fingerprint_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "fingerprint.json"
    with pytest.raises(ModelError, match="missing or unreadable; run make teacher"):
        read_fingerprint(tmp_path)
    fingerprint(small()).save(tmp_path)
    assert read_fingerprint(tmp_path) == fingerprint(small())
    content = json.loads(path.read_text())
    path.write_text(path.read_text().replace("8000", "16000"))
    with pytest.raises(ModelError, match="do not give the hash"):
        read_fingerprint(tmp_path)
    path.write_text(json.dumps({**content, "dithering": 0.0}))
    with pytest.raises(ModelError, match=r"holds \['dithering'\], a later Distillery wrote it"):
        read_fingerprint(tmp_path)
    del content["layers"]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"lacks \['layers'\], an earlier Distillery wrote it"):
        read_fingerprint(tmp_path)


SAVED_FINGERPRINT = """{
  "architecture": {
    "conv_channels": 32,
    "dropout": 0.2,
    "hidden_size": 192,
    "num_layers": 2,
    "time_reduction": 4,
    "type": "conv_bilstm"
  },
  "fingerprint": "e66261776d3c21d3405a6c8f26bc4988ce51245cf06a5bae9b22a12fff8b6d58",
  "frame_shift_seconds": 0.04,
  "gives_frames": true,
  "layers": {
    "last": 384,
    "project": 192,
    "recurrent.0": 384,
    "recurrent.1": 384
  },
  "preprocessing": {
    "features": {
      "hop_seconds": 0.01,
      "normalise": "bands",
      "num_mels": 64,
      "window_seconds": 0.025
    },
    "sample_rate_hz": 16000
  },
  "tokens": "8dd3431a452d05613a28e7c47ba0d6371099a8f5fb4089db7fb4cb35dfa8de79",
  "weights": "9cc8f836180c0081a1bf37b2f30f1a63aba61c9c2587bc3477dbe4fb2c779b7d"
}
"""
"""As an earlier Distillery wrote it."""


def test_a_saved_fingerprint_is_read_and_written_alike(tmp_path: Path) -> None:
    path = tmp_path / "fingerprint.json"
    path.write_text(SAVED_FINGERPRINT)
    saved = read_fingerprint(tmp_path)
    assert saved.architecture["type"] == "conv_bilstm"
    assert (saved.layers["last"], saved.gives_frames) == (384, True)
    saved.save(tmp_path)
    assert path.read_text() == SAVED_FINGERPRINT
