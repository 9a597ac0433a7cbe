"""Long recordings in windows: the text of the whole where that can be, and bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from distillery.data.audio import to_int16
from distillery.models.decoding import greedy_text
from distillery.params.models import (
    CausalConvParams,
    ConformerParams,
    FeatureParams,
    SeparableConvParams,
    StudentArchitecture,
)
from distillery.serve.export import to_onnx
from distillery.serve.log_mel import BLOCK_FRAMES, NumpyLogMel
from distillery.serve.long_audio import (
    CONTEXT_SECONDS,
    MAX_WHOLE_SECONDS,
    Layout,
    is_long,
    scores_in_windows,
)
from distillery.serve.numpy_features import numpy_features
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.serve.served import SERVED_FILE
from distillery.serve.torch_transcriber import TorchTranscriber
from tests.unit.models.test_layers import ALL, NUM_MELS
from tests.unit.models.test_recogniser import noise
from tests.unit.serve.test_export import recogniser_of

RATE_HZ = 8000
HOP_SECONDS = 0.01
CONVOLUTIONS = [
    *(item for item in ALL if item.type in ("separable_conv", "causal_conv")),
    SeparableConvParams(
        type="separable_conv", channels=8, num_blocks=4, kernel_size=33, time_reduction=2
    ),
    CausalConvParams(
        type="causal_conv", channels=8, num_blocks=4, kernel_size=32, time_reduction=2
    ),
    SeparableConvParams(
        type="separable_conv", channels=8, num_blocks=2, kernel_size=11, time_reduction=8
    ),
]
OTHERS = [item for item in ALL if item not in CONVOLUTIONS]
MAX_GROWTH_MB = 100  # the samples alone would be 115
HOUR = """
import sys
from distillery.commands.main import main
def peak_mb():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
assert main(["transcribe", "--model", sys.argv[1], "second.wav"]) == 0
before = peak_mb()
assert main(["transcribe", "--model", sys.argv[1], "hour.wav"]) == 0
print(peak_mb() - before)
"""


@pytest.fixture(scope="module")
def long_noise() -> np.ndarray:
    """75.3 s, whose level changes, so that what windows are normalised by matters."""
    level = np.linspace(0.2, 1.0, round(75.3 * RATE_HZ), dtype=np.float32)
    return noise(len(level)) * level


@pytest.mark.parametrize("normalise", ["bands", "level", "running"])
@pytest.mark.parametrize("seconds", [0.001, 20.47, 20.48, 75.3])
def test_features_in_blocks_are_those_of_the_whole(
    long_noise: np.ndarray, normalise: str, seconds: float
) -> None:
    recogniser = recogniser_of(ALL[2], normalise)
    extractor = NumpyLogMel(recogniser.features, RATE_HZ)
    waveform = long_noise[: round(seconds * RATE_HZ)]
    samples = to_int16(waveform)
    blocks = list(extractor.blocks([samples]))
    assert max(map(len, blocks)) <= BLOCK_FRAMES
    found = np.concatenate(blocks)
    assert found.dtype == np.float32
    assert len(found) == extractor.num_frames(len(samples))
    expected = extractor(samples.astype(np.float32) / 32768)
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("normalise", ["bands", "level", "running"])
@pytest.mark.parametrize(("hop", "window"), [(0.01, 0.025), (0.03, 0.016)])
@pytest.mark.parametrize("kind", ["log_mel", "kaldi_fbank"])
def test_where_a_recording_is_cut_into_blocks_changes_no_bit(
    long_noise: np.ndarray, kind: str, hop: float, window: float, normalise: str
) -> None:
    params = FeatureParams(
        type=kind, num_mels=8, hop_seconds=hop, window_seconds=window, normalise=normalise
    )
    extractor = numpy_features(params, RATE_HZ)
    samples = to_int16(long_noise)
    expected = np.concatenate(list(extractor.blocks([samples])))
    assert len(expected) == extractor.num_frames(len(samples))
    for size in (777, 2**18):
        cut = np.split(samples, range(size, len(samples), size))
        found = np.concatenate(list(extractor.blocks([samples[:0], *cut, samples[:0]])))
        np.testing.assert_array_equal(found, expected)


def scores(architecture: StudentArchitecture, waveform: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return a network's scores in windows and of the whole, both `(frames, vocab)`."""
    normalise = "running" if architecture.type == "causal_conv" else "bands"
    network = recogniser_of(architecture, normalise).network
    extractor = NumpyLogMel(recogniser_of(architecture, normalise).features, RATE_HZ)
    fields = architecture.model_dump()
    layout = Layout(**{k: v for k, v in fields.items() if k in Layout.__dataclass_fields__})

    def run(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = network.scores(torch.from_numpy(features), None).numpy()
        return found

    parts = list(scores_in_windows([waveform], extractor, layout, HOP_SECONDS, run))
    assert len(parts) > 2
    return np.concatenate(parts), run(extractor(waveform)[None])[0]


@pytest.mark.parametrize("architecture", CONVOLUTIONS, ids=lambda item: item.type)
def test_convolutions_say_the_same_in_windows(
    architecture: StudentArchitecture, long_noise: np.ndarray
) -> None:
    found, whole = scores(architecture, long_noise)
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=2e-3)


def test_with_less_context_they_would_not(
    long_noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context is what it must be, and no test of a network that hears nothing."""
    monkeypatch.setattr(Layout, "context_frames", lambda *_: 4)
    found, whole = scores(CONVOLUTIONS[-2], long_noise)
    assert np.abs(found - whole).max() > 0.01


@pytest.mark.parametrize("architecture", OTHERS, ids=lambda item: item.type)
def test_others_say_something_of_every_frame_once(
    architecture: StudentArchitecture, long_noise: np.ndarray
) -> None:
    found, whole = scores(architecture, long_noise)
    assert found.shape == whole.shape
    if architecture.type != "conformer":  # attention that nobody trained hears all alike
        assert np.abs(found - whole).mean() < 0.1 * np.abs(whole - whole.mean(axis=0)).mean()
    layout = Layout(architecture.type, architecture.time_reduction)
    assert layout.context_frames(HOP_SECONDS) * HOP_SECONDS == CONTEXT_SECONDS


def test_short_recordings_are_heard_as_a_whole_as_ever(tmp_path: Path) -> None:
    recogniser = recogniser_of(ALL[3])
    recogniser.save(tmp_path)
    (tmp_path / MODEL_FILES["onnx"]).write_bytes(to_onnx(recogniser.network, NUM_MELS))
    onnx, torch_form = OnnxRecogniser(tmp_path, "onnx"), TorchTranscriber(recogniser)
    most = round(MAX_WHOLE_SECONDS * RATE_HZ)
    assert not is_long(most, RATE_HZ) and is_long(most + 1, RATE_HZ)
    waveforms = [noise(4000), noise(most), noise(100)]
    expected = [
        greedy_text(item, onnx.vocabulary) for item in onnx.log_probs(waveforms)
    ]  # what it was before there were windows
    assert onnx.transcribe(waveforms) == expected
    assert torch_form.transcribe(waveforms) == recogniser.transcribe(waveforms)


def test_both_forms_give_long_and_short_ones_in_their_order(
    tmp_path: Path, long_noise: np.ndarray
) -> None:
    recogniser = recogniser_of(ALL[2])
    recogniser.save(tmp_path)
    (tmp_path / MODEL_FILES["onnx"]).write_bytes(to_onnx(recogniser.network, NUM_MELS))
    samples = [to_int16(item) for item in (long_noise, noise(4000), long_noise[::-1].copy())]
    onnx = OnnxRecogniser(tmp_path, "onnx")
    forms = (onnx, TorchTranscriber(recogniser))
    texts = [form.transcribe(samples) for form in forms]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][2]
    assert len(texts[0][0]) > len(texts[0][1])
    (log_probs,) = onnx.log_probs(samples[:1])
    assert greedy_text(log_probs, onnx.vocabulary) == texts[0][0]
    for form in forms:
        assert [form.transcribe([item])[0] for item in samples] == texts[0]
        cut = [np.split(item, range(777, len(item), 777)) for item in samples]
        assert form.transcribe([cut[0], samples[1], cut[2]]) == texts[0]


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_an_hour_takes_little_memory(tmp_path: Path, form: str) -> None:
    """Attention over all of it would take 16 GB, and features of all of it some 300 MB."""
    architecture = ConformerParams(
        type="conformer", conv_channels=4, model_size=8, num_heads=1, num_layers=1, kernel_size=3
    )
    recogniser = recogniser_of(architecture)
    recogniser.sample_rate_hz = rate_hz = 16000
    model = tmp_path / "model"
    model.mkdir()
    recogniser.save(model)
    if form == "onnx":
        (model / MODEL_FILES[form]).write_bytes(to_onnx(recogniser.network, NUM_MELS))
        (model / SERVED_FILE).write_text(json.dumps({"format": form}))
    minute = to_int16(noise(60 * rate_hz))
    soundfile.write(tmp_path / "second.wav", minute[:rate_hz], rate_hz)
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", rate_hz, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    done = subprocess.run(
        [sys.executable, "-c", HOUR, str(model)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout.splitlines()[-1]) < MAX_GROWTH_MB
