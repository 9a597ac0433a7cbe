"""The recogniser of packages beside the one that serves: equal texts."""

from pathlib import Path

import numpy as np
import pytest

from distillery.params.models import FeatureParams
from distillery.serve.export import to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.serve.packaged import Features, PackagedRecogniser
from distillery.serve.texts import parse_hot_words
from tests.tiny import RATE_HZ, speak
from tests.tiny_decoder import put_decoder
from tests.unit.serve.test_sherpa import SMALL, student


def test_its_settings_are_those_of_the_library() -> None:
    names = set(FeatureParams.model_fields)
    ours, plain = FeatureParams(), Features()
    assert vars(plain).keys() == names
    assert all(getattr(ours, name) == getattr(plain, name) for name in names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    model = student(SMALL)
    model.save(folder)
    (folder / MODEL_FILES["onnx"]).write_bytes(to_onnx(model.network, model.features.num_mels))
    put_decoder(folder)
    return folder


def test_its_texts_are_those_of_what_is_served(folder: Path) -> None:
    ours = PackagedRecogniser(folder, MODEL_FILES["onnx"])
    served = OnnxRecogniser(folder, "onnx")
    for seed, seconds in ((1, 1), (2, 70)):  # the second one in windows
        waveform = np.tile(speak("abc cab", seed), 70)[: seconds * RATE_HZ]
        samples = np.rint(waveform * 32768).astype(np.int16)
        assert ours.text(waveform) == served.transcribe([samples])[0] != ""
        hot = parse_hot_words(["bca=9"], served.vocabulary)
        assert ours.text(waveform, ["bca"], 9.0) == served.transcribe([samples], hot)[0]


def test_channels_are_mixed(folder: Path) -> None:
    ours = PackagedRecogniser(folder, MODEL_FILES["onnx"])
    waveform = speak("abc", 1)
    both = np.stack([waveform, np.zeros_like(waveform)], axis=1)
    assert ours.text(both) == ours.text(waveform / 2)
