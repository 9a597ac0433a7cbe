"""Exported students while the audio arrives: what they say of the whole, however it is cut."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.decoder.grammar import SearchWeights
from distillery.decoder.trie import HotWord
from distillery.errors import ModelError
from distillery.serve.long_audio import is_long
from distillery.serve.onnx_recogniser import OnnxRecogniser
from distillery.serve.onnx_streaming import OnnxStream
from distillery.serve.served import begin_stream, load_served
from tests.tiny import RATE_HZ, speak
from tests.tiny_decoder import put_decoder
from tests.tiny_students import put_exported, streaming_student, talking_student

FORMATS = ["onnx", "onnx-int8"]
SETTINGS = [(0, 4, "log_mel"), (3, 4, "log_mel"), (1, 2, "log_mel"), (3, 4, "kaldi_fbank")]


@cache
def exported(setting: tuple[int, int, str], name: str) -> OnnxRecogniser:
    folder = put_exported(streaming_student(*setting), Path(mkdtemp()))
    return OnnxRecogniser(folder, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("setting", SETTINGS)
@given(
    num_samples=st.integers(1, 6000),
    cuts=st.lists(st.integers(0, 6000), max_size=12),
    ends_apart=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_chunks_give_what_the_whole_utterance_gives(
    setting: tuple[int, int, str], name: str, num_samples: int, cuts: list[int], ends_apart: bool
) -> None:
    student = exported(setting, name)
    waveform = speak("abc cab", 3)[:num_samples]
    (whole,) = student.log_probs([waveform])
    stream = OnnxStream(student)
    *chunks, end = np.split(waveform, sorted(min(cut, num_samples) for cut in cuts))
    if ends_apart:
        chunks, end = [*chunks, end], waveform[:0]
    found = [stream.push(chunk) for chunk in chunks] + [stream.push(end, last=True)]
    # Features differ in their last bits, which may be one step of an integer.
    tolerance = 1e-3 if name == "onnx" else 0.3
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=tolerance)
    if name == "onnx":
        assert stream.text == student.transcribe([waveform])[0]


@pytest.mark.parametrize("name", FORMATS)
def test_the_text_grows_to_that_of_the_whole(name: str) -> None:
    student, waveform = exported((3, 4, "log_mel"), name), speak("abc cab", 3)
    stream, texts = OnnxStream(student), []
    for chunk in np.array_split(waveform, 20):
        stream.push(chunk)
        texts.append(stream.text)
    stream.push(waveform[:0], last=True)
    assert all(later.startswith(former) for former, later in pairwise([*texts, stream.text]))
    assert len(set(texts)) > 5
    assert stream.text == student.transcribe([waveform])[0]


@pytest.mark.parametrize("setting", SETTINGS[:3])
def test_a_frame_comes_as_soon_as_its_lookahead_and_half_window_are_there(
    setting: tuple[int, int, str],
) -> None:
    lookahead, reduction, _ = setting
    hop, half_window = 80, 100
    stream, waveform = OnnxStream(exported(setting, "onnx")), speak("abc", 0)
    count = 0
    for start in range(0, 2000, 20):
        count += len(stream.push(waveform[start : start + 20]))
        latest = (start + 20 - half_window) // hop  # feature frame
        assert count == max(0, latest // reduction + 1 - lookahead)


def test_a_long_stream_needs_no_more_memory_and_is_the_recording_in_windows() -> None:
    student = exported((3, 4, "log_mel"), "onnx")
    waveform = np.concatenate([speak("abc cab bac", seed) for seed in range(9)] * 9)
    assert is_long(len(waveform), RATE_HZ)
    stream = OnnxStream(student)
    for chunk in np.array_split(waveform, len(waveform) // 800):
        stream.push(chunk)
        assert len(stream.held) <= stream.context_frames + (3 + 1 + 2) * 4
        assert stream.held.base is None  # no view of what was heard before
    stream.push(waveform[:0], last=True)
    assert stream.text == student.transcribe([waveform])[0] != ""


@pytest.mark.parametrize("name", ["torch", *FORMATS])
def test_what_is_served_streams_with_its_decoder_and_hot_words(name: str, tmp_path: Path) -> None:
    put_exported(streaming_student(), tmp_path, None if name == "torch" else name)
    put_decoder(tmp_path, SearchWeights(0.5, 0.0, 0.0))
    student, hot_words = load_served(tmp_path), (HotWord("cab", 3.0),)
    waveform = speak("ab cab bac abba", 4)
    stream = begin_stream(student, hot_words)
    for chunk in np.array_split(waveform, 30):
        stream.push(chunk)
        assert stream.text.startswith(stream.settled_text)
    stream.push(waveform[:0], last=True)
    assert stream.text == student.transcribe([waveform], hot_words)[0] != ""


@pytest.mark.parametrize("name", [None, "onnx"])
def test_what_waits_for_the_end_cannot_stream(name: str | None, tmp_path: Path) -> None:
    student = load_served(put_exported(talking_student(), tmp_path, name))
    with pytest.raises(
        ModelError, match="crnn with features normalised 'bands' waits .* such as causal_conv"
    ):
        begin_stream(student)


def test_nothing_may_follow_the_last_chunk() -> None:
    stream = OnnxStream(exported((3, 4, "log_mel"), "onnx"))
    stream.push(speak("a", 0), last=True)
    with pytest.raises(ModelError, match="a chunk came after the last one; start a new stream"):
        stream.push(speak("a", 0))


def test_it_needs_no_pytorch(tmp_path: Path) -> None:
    put_exported(streaming_student(), tmp_path, "onnx")
    put_decoder(tmp_path)
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from distillery.serve.served import begin_stream, load_served\n"
        f"stream = begin_stream(load_served(Path({str(tmp_path)!r})))\n"
        "assert stream.search is not None\n"
        "stream.push(numpy.zeros(8000, numpy.float32))\n"
        "stream.push(numpy.zeros(0, numpy.float32), last=True)\n"
        "held = {'torch', 'torchaudio', 'flashlight'} & sys.modules.keys()\n"
        "assert not held, held"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
