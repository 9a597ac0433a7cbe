"""Students in sherpa-onnx, the wheel as published: features, texts, batches, streams."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import sherpa_onnx
import soundfile
import torch
from onnx import TensorProto, helper
from torch.nn import functional as F

from distillery.architectures.known import ARCHITECTURES
from distillery.data.features import pad
from distillery.data.kaldi import KaldiFilterBank
from distillery.data.text import BLANK, SPACE, Vocabulary
from distillery.errors import ModelError
from distillery.models.recogniser import Recogniser
from distillery.params.models import CausalConvParams, FeatureParams, SeparableConvParams
from distillery.serve.export import to_onnx
from distillery.serve.onnx_recogniser import MODEL_FILES, OnnxRecogniser
from distillery.serve.sherpa import (
    FILES,
    INT8_FILE,
    MODEL_FILE,
    README_FILE,
    STREAMING_FILE,
    TOKENS_FILE,
    export_sherpa,
    numbered_tokens,
    whole_model,
)
from distillery.serve.sherpa_streaming import (
    CHUNK_FRAMES,
    state_shapes,
    streaming_model,
    tail_seconds,
)
from distillery.serve.streaming import StreamingRecogniser
from tests.tiny import RATE_HZ, speak, utterance_text
from tests.unit.models.test_layers import ALL

NUM_MELS = 20
NUM_STEPS = 200
PADDING = -23.025850929940457
"""What sherpa-onnx pads energies with."""
SMALL = SeparableConvParams(
    type="separable_conv", channels=32, num_blocks=2, kernel_size=7, dropout=0.0
)


def student(
    architecture,
    normalise: str = "bands",
    *,
    alphabet: str = "abc",
    vocabulary: Vocabulary | None = None,
    rate: int = RATE_HZ,
    num_mels: int = NUM_MELS,
) -> Recogniser:
    """Return a random network whose outputs are centred, so that it hears something of all."""
    torch.manual_seed(1)
    vocabulary = vocabulary or Vocabulary.from_alphabet(alphabet)
    network = ARCHITECTURES[architecture.type](architecture, num_mels, len(vocabulary)).eval()
    for module in network.modules():  # as if it had been trained
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.bias, std=0.5)
    features = FeatureParams(type="kaldi_fbank", num_mels=num_mels, normalise=normalise)
    model = Recogniser(network, architecture, features, vocabulary, rate)
    mean = model.log_probs([speak("abc cab", 0)])[0].mean(axis=0)
    with torch.no_grad():
        network.output.bias -= torch.from_numpy(mean)
    return model


def sounds() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    noises = [random.normal(0, s, n).astype(np.float32) for n, s in ((9000, 0.1), (30000, 0.01))]
    return [speak("abc cab", 0), speak("a", 1), noises[0], speak("cc ba abc", 2), noises[1]]


def in_sherpa(folder: Path, recogniser: Recogniser, file: str = MODEL_FILE):
    return sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(folder / file),
        tokens=str(folder / TOKENS_FILE),
        sample_rate=recogniser.sample_rate_hz,
        feature_dim=recogniser.features.num_mels,
    )


def heard(runtime, waveforms: list[np.ndarray], rate: int, *, together: bool = False) -> list[str]:
    """Return the texts, spaces tidied as ours are."""
    streams = [runtime.create_stream() for _ in waveforms]
    for stream, waveform in zip(streams, waveforms, strict=True):
        stream.accept_waveform(rate, waveform)
    if together:
        runtime.decode_streams(streams)
    else:
        for stream in streams:
            runtime.decode_stream(stream)
    return [" ".join(stream.result.text.split()) for stream in streams]


# --- features ------------------------------------------------------------------------------------


def write_probe(folder: Path, mel: int) -> None:
    """Write a model whose tokens say what one mel band is: 1 + 1000 (x + 17), then even or odd."""
    steps, depth = 25_000, 50_002
    nodes = [
        helper.make_node("Gather", ["x", "mel"], ["band"], axis=2),
        helper.make_node("Add", ["band", "offset"], ["raised"]),
        helper.make_node("Mul", ["raised", "scale"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["numbers"], to=TensorProto.INT64),
        helper.make_node("Shape", ["band"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"], axis=0),
        helper.make_node("Range", ["zero", "length", "one"], ["index"]),
        helper.make_node("Mod", ["index", "two"], ["odd"]),  # or equal neighbours would be one
        helper.make_node("Mul", ["odd", "steps"], ["raise"]),
        helper.make_node("Add", ["numbers", "raise"], ["sum"]),
        helper.make_node("Add", ["sum", "one"], ["token"]),
        helper.make_node("OneHot", ["token", "depth", "values"], ["log_probs"]),
        helper.make_node("Identity", ["x_lens"], ["log_probs_len"]),
    ]
    integers = {"mel": mel, "one": 1, "zero": 0, "two": 2, "steps": steps, "depth": depth}
    stored = [helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in integers.items()]
    floats = {"offset": 17.0, "scale": 1000.0}
    stored += [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in floats.items()]
    stored.append(helper.make_tensor("values", TensorProto.FLOAT, [2], [0.0, 1.0]))
    graph = helper.make_graph(
        nodes,
        "probe",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "T", "C"]),
            helper.make_tensor_value_info("x_lens", TensorProto.INT64, ["N"]),
        ],
        [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["N", "T", depth]),
            helper.make_tensor_value_info("log_probs_len", TensorProto.INT64, ["N"]),
        ],
        stored,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / MODEL_FILE)
    lines = ["<blank> 0", *(f"t{token} {token}" for token in range(1, depth))]
    (folder / TOKENS_FILE).write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("rate", "num_mels"), [(8000, 40), (16000, 80)])
def test_the_runtime_computes_the_features_of_training(
    tmp_path: Path, rate: int, num_mels: int
) -> None:
    recogniser = student(SMALL, rate=rate, num_mels=num_mels)
    random = np.random.default_rng(rate)
    waveform = np.concatenate(
        [random.normal(0, scale, rate // 8) for scale in (0.2, 1e-3, 0.0)], dtype=np.float32
    )
    waveform = np.rint(waveform * 32767) / np.float32(32768)
    expected = KaldiFilterBank(recogniser.features, rate)(waveform)
    for mel in (0, num_mels // 2, num_mels - 1):
        write_probe(tmp_path, mel)
        runtime = in_sherpa(tmp_path, recogniser)
        stream = runtime.create_stream()
        stream.accept_waveform(rate, waveform)
        runtime.decode_stream(stream)
        tokens = np.array([int(token.removeprefix("t")) - 1 for token in stream.result.tokens])
        found = (tokens - 25_000 * (np.arange(len(tokens)) % 2)) / 1000 - 17
        assert len(found) == len(expected)
        assert abs(found - expected[:, mel]).max() < 1e-3  # half of it is the probe's


# --- whole utterances ----------------------------------------------------------------------------


@cache
def trained() -> Recogniser:
    """Return a student that has learnt the tiny language of tones."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_alphabet("abc")
    network = ARCHITECTURES[SMALL.type](SMALL, NUM_MELS, len(vocabulary))
    features = FeatureParams(type="kaldi_fbank", num_mels=NUM_MELS)
    model = Recogniser(network, SMALL, features, vocabulary, RATE_HZ)
    random = np.random.default_rng(3)
    texts = [utterance_text(random) for _ in range(150)]
    inputs = [model.extract([speak(text, index)])[0][0] for index, text in enumerate(texts)]
    labels = [torch.tensor(vocabulary.encode(text)) for text in texts]
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-2, NUM_STEPS)
    network.train()
    for _ in range(NUM_STEPS):
        batch = random.choice(len(texts), 16, replace=False)
        scores, frames = network(*pad([inputs[index] for index in batch]))
        log_probs = scores.log_softmax(dim=-1).transpose(0, 1)
        targets, lengths = pad([labels[index] for index in batch])
        optimiser.zero_grad()
        F.ctc_loss(log_probs, targets, frames, lengths).backward()
        optimiser.step()
        schedule.step()
    network.eval()
    return model


def test_a_trained_student_gives_the_texts_of_our_serving(tmp_path: Path) -> None:
    recogniser = trained()
    random = np.random.default_rng(9)
    texts = [utterance_text(random) for _ in range(20)]
    waveforms = [speak(text, 1000 + index) for index, text in enumerate(texts)]
    files = export_sherpa(recogniser, tmp_path, waveforms[:4])
    assert files == [MODEL_FILE, INT8_FILE, TOKENS_FILE, README_FILE]
    served = tmp_path / "served"
    served.mkdir()
    recogniser.save(served)
    (served / MODEL_FILES["onnx"]).write_bytes(to_onnx(recogniser.network, NUM_MELS))
    ours = OnnxRecogniser(served, "onnx").transcribe(waveforms)
    assert sum(a == b for a, b in zip(ours, texts, strict=True)) >= 15  # it has learnt something
    runtime = in_sherpa(tmp_path, recogniser)
    assert heard(runtime, waveforms, RATE_HZ) == ours
    assert heard(runtime, waveforms, RATE_HZ, together=True) == ours
    integers = heard(in_sherpa(tmp_path, recogniser, INT8_FILE), waveforms, RATE_HZ)
    assert sum(a == b for a, b in zip(ours, integers, strict=True)) >= 18


@pytest.mark.parametrize(
    ("architecture", "normalise"),
    [*((item, "bands") for item in ALL), (SMALL, "level"), (SMALL, "running")],
    ids=lambda item: getattr(item, "type", item),
)
def test_padding_changes_no_utterance(architecture, normalise: str) -> None:
    recogniser = student(architecture, normalise)
    waveforms = [item[: 3000 + 1111 * index] for index, item in enumerate(sounds())]
    bank = KaldiFilterBank(recogniser.features, RATE_HZ)
    energies = [bank(waveform) for waveform in waveforms]
    lengths = np.array([len(item) for item in energies])
    x = np.full((len(energies), lengths.max() + 7, NUM_MELS), PADDING, np.float32)
    for row, item in enumerate(energies):
        x[row, : len(item)] = item
    session = onnxruntime.InferenceSession(whole_model(recogniser))
    log_probs, frames = session.run(None, {"x": x, "x_lens": lengths})
    assert frames.dtype == np.int64
    for row, expected in enumerate(recogniser.log_probs(waveforms)):
        assert frames[row] == len(expected)
        np.testing.assert_allclose(log_probs[row, : frames[row]], expected, atol=1e-3)


@pytest.mark.parametrize("alphabet", ["abc", "ABƏ", "а我ß", "'1٣"])
def test_texts_of_other_scripts(tmp_path: Path, alphabet: str) -> None:
    recogniser = student(SMALL, alphabet=alphabet)
    export_sherpa(recogniser, tmp_path)
    ours = recogniser.transcribe(sounds())
    assert {*alphabet} <= {*"".join(ours)} and " " in "".join(ours)
    assert heard(in_sherpa(tmp_path, recogniser), sounds(), RATE_HZ) == ours


def test_pieces_of_words_are_joined_as_ours_are(tmp_path: Path) -> None:
    pieces = Vocabulary((BLANK, SPACE, "a", "b", "|a", "ab", "|cab"))
    recogniser = student(SMALL, vocabulary=pieces)
    export_sherpa(recogniser, tmp_path)
    assert "▁cab 6\n" in (tmp_path / TOKENS_FILE).read_text()
    ours = recogniser.transcribe(sounds())
    assert "cab" in "".join(ours) and " " in "".join(ours)
    assert heard(in_sherpa(tmp_path, recogniser), sounds(), RATE_HZ) == ours


def test_tokens_are_numbered_and_one_more_stands_where_letters_look_like_bytes() -> None:
    assert numbered_tokens(Vocabulary.from_alphabet("ab")) == "<blank> 0\n▁ 1\na 2\nb 3\n"
    assert numbered_tokens(Vocabulary.from_alphabet("Ə")) == "<blank> 0\n▁ 1\nƏ 2\n一 3\n"


def test_the_file_says_what_it_is_and_equal_students_give_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        export_sherpa(student(SMALL), folder, sounds()[:2])
    assert [p.read_bytes() for p in sorted(first.iterdir())] == [
        p.read_bytes() for p in sorted(second.iterdir())
    ]
    for name in (MODEL_FILE, INT8_FILE):
        model = onnx.load(str(first / name))
        onnx.checker.check_model(model, full_check=True)
        metadata = {item.key: item.value for item in model.metadata_props}
        assert metadata["model_type"] == "zipformer2_ctc"
        assert (metadata["vocab_size"], metadata["subsampling_factor"]) == ("5", "4")
        assert (metadata["sample_rate"], metadata["feature_dim"]) == ("8000", "20")


def test_the_page_in_the_folder_runs_as_it_stands(tmp_path: Path) -> None:
    recogniser = trained()
    export_sherpa(recogniser, tmp_path)
    soundfile.write(tmp_path / "recording.wav", speak("abc cab", 7), RATE_HZ)
    code = (tmp_path / README_FILE).read_text().split("```python\n")[1].split("```")[0]
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == recogniser.transcribe([speak("abc cab", 7)])[0]


@pytest.mark.parametrize(
    "changes",
    [{"type": "log_mel"}, {"hop_seconds": 0.0125}, {"window_seconds": 0.02}],
)
def test_features_that_the_runtime_does_not_compute_are_refused(tmp_path: Path, changes) -> None:
    recogniser = student(SMALL)
    recogniser.features = recogniser.features.model_copy(update=changes)
    with pytest.raises(ModelError, match=r"Train a student with `features: \{type: kaldi_fbank"):
        export_sherpa(recogniser, tmp_path)
    assert not list(tmp_path.iterdir())


# --- streams -------------------------------------------------------------------------------------

STREAMS = [(2, 5, 0, 4), (2, 5, 3, 4), (3, 4, 4, 2), (1, 1, 0, 4)]


def streaming_student(blocks: int, kernel: int, lookahead: int, reduction: int) -> Recogniser:
    architecture = CausalConvParams(
        type="causal_conv",
        channels=12,
        num_blocks=blocks,
        kernel_size=kernel,
        lookahead_frames=lookahead,
        time_reduction=reduction,
    )
    return student(architecture, "running")


@pytest.mark.parametrize("sizes", STREAMS)
def test_chunks_give_what_the_stream_gives(tmp_path: Path, sizes) -> None:
    recogniser = streaming_student(*sizes)
    assert STREAMING_FILE in export_sherpa(recogniser, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / STREAMING_FILE)
    waveforms = [np.resize(sounds()[index], 3 * RATE_HZ) for index in (0, 2)]
    energies = np.stack([KaldiFilterBank(recogniser.features, RATE_HZ)(w) for w in waveforms])
    states = {
        name: np.zeros(
            [2 if i == axis else n for i, n in enumerate(shape)],
            np.int64 if name == "processed_lens" else np.float32,
        )
        for name, (shape, axis) in state_shapes(recogniser).items()
    }
    parts = []
    for start in range(0, 290 - CHUNK_FRAMES, CHUNK_FRAMES):
        chunk = energies[:, start : start + CHUNK_FRAMES]
        log_probs, *new = session.run(None, {"x": chunk, **states})
        states = dict(zip(states, new, strict=True))
        parts.append(log_probs)
    found = np.concatenate(parts, axis=1)
    delay = recogniser.network.lookahead_frames
    assert (found[:, :delay].argmax(axis=-1) == 0).all()  # blanks before the start
    for row, waveform in enumerate(waveforms):
        expected = StreamingRecogniser(recogniser).push(waveform)
        shared = min(len(expected), found.shape[1] - delay)
        assert shared > 50
        np.testing.assert_allclose(found[row, delay : delay + shared], expected[:shared], atol=2e-3)


def test_several_streams_at_once_and_one_after_a_reset(tmp_path: Path) -> None:
    recogniser = streaming_student(2, 5, 3, 4)
    export_sherpa(recogniser, tmp_path)
    runtime = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        model=str(tmp_path / STREAMING_FILE),
        tokens=str(tmp_path / TOKENS_FILE),
        sample_rate=RATE_HZ,
        feature_dim=NUM_MELS,
    )
    tail = np.zeros(round(tail_seconds(recogniser) * RATE_HZ) + 1, np.float32)
    streams = [runtime.create_stream() for _ in sounds()]
    for stream, waveform in zip(streams, sounds(), strict=True):
        for piece in np.array_split(np.concatenate([waveform, tail]), 7):
            stream.accept_waveform(RATE_HZ, piece)
    while ready := [stream for stream in streams if runtime.is_ready(stream)]:
        runtime.decode_streams(ready)
    for stream, waveform in zip(streams, sounds(), strict=True):
        ours = StreamingRecogniser(recogniser)
        ours.push(waveform)
        least = ours.text
        ours.push(tail)
        found = " ".join(runtime.get_result(stream).split())
        assert ours.text.startswith(found) and len(found) >= len(least)
    first = runtime.get_result(streams[0])
    runtime.reset(streams[0])
    assert runtime.get_result(streams[0]) == ""
    again = runtime.create_stream()
    again.accept_waveform(RATE_HZ, np.concatenate([sounds()[0], tail]))
    while runtime.is_ready(again):
        runtime.decode_stream(again)
    assert runtime.get_result(again) == first


def test_the_page_for_a_student_that_streams_tells_of_the_tail_and_of_doubled_times(
    tmp_path: Path,
) -> None:
    export_sherpa(streaming_student(3, 4, 4, 2), tmp_path)
    page = (tmp_path / README_FILE).read_text()
    assert "from_zipformer2_ctc" in page and "0.42 s of zeros" in page
    assert "divide its timestamps by 2" in page
    assert set(FILES) >= {item.name for item in tmp_path.iterdir()}


def test_a_student_too_wide_for_the_states_is_refused() -> None:
    recogniser = streaming_student(1, 3, 0, 4)
    wide = recogniser.architecture.model_copy(update={"channels": 1800})
    recogniser.network = ARCHITECTURES["causal_conv"](wide, NUM_MELS, 5).eval()
    with pytest.raises(ModelError, match="1800 channels and 20 mel bands need 7380 numbers of"):
        streaming_model(recogniser)
