from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.features import LogMel
from distillery.errors import ModelError
from distillery.models.decoding import greedy_text, greedy_tokens
from distillery.models.recogniser import Recogniser
from distillery.params.models import FeatureParams
from distillery.serve.growing_text import GreedyPath
from distillery.serve.streaming import (
    LogMelStream,
    StreamingRecogniser,
    algorithmic_latency_seconds,
    can_stream,
)
from tests.tiny import speak
from tests.tiny_students import STREAMING_VOCABULARY as VOCABULARY
from tests.tiny_students import streaming_student as student

SETTINGS = [(0, 4), (3, 4), (1, 2)]  # lookahead, time reduction


def pieces(waveform: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(waveform, sorted(min(cut, len(waveform)) for cut in cuts))


@pytest.mark.parametrize("setting", SETTINGS)
@given(
    num_samples=st.integers(1, 6000),
    cuts=st.lists(st.integers(0, 6000), max_size=12),
    ends_apart=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_chunks_give_what_the_whole_utterance_gives(
    setting: tuple[int, int], num_samples: int, cuts: list[int], ends_apart: bool
) -> None:
    model = student(*setting)
    waveform = speak("abc cab", 3)[:num_samples]
    (whole,) = model.log_probs([waveform])
    stream = StreamingRecogniser(model)
    *chunks, end = pieces(waveform, cuts)
    if ends_apart:  # that nothing follows may show only later
        chunks, end = [*chunks, end], waveform[:0]
    found = [stream.push(chunk) for chunk in chunks] + [stream.push(end, last=True)]
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=0, atol=1e-4)
    assert stream.text == greedy_text(whole, VOCABULARY)


def test_the_random_student_says_something() -> None:
    """Or the equal texts above would prove little."""
    for setting in SETTINGS:
        assert len(student(*setting).transcribe([speak("abc cab", 3)])[0]) > 5


def test_the_text_grows() -> None:
    model, waveform = student(), speak("abc cab", 3)
    stream, texts = StreamingRecogniser(model), []
    for chunk in np.array_split(waveform, 20):
        stream.push(chunk)
        texts.append(stream.text)
    assert all(later.startswith(former) for former, later in pairwise(texts))
    assert len(set(texts)) > 5


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_frame_comes_as_soon_as_its_lookahead_and_half_window_are_there(
    setting: tuple[int, int],
) -> None:
    lookahead, reduction = setting
    hop, half_window = 80, 100
    stream, waveform = StreamingRecogniser(student(*setting)), speak("abc", 0)
    count = 0
    for start in range(0, 2000, 20):
        count += len(stream.push(waveform[start : start + 20]))
        latest = (start + 20 - half_window) // hop  # feature frame
        assert count == max(0, latest // reduction + 1 - lookahead)


def test_the_latency_counts_frame_lookahead_and_half_window() -> None:
    # 40 ms a frame, three frames of lookahead, half of 25 ms
    assert algorithmic_latency_seconds(student(3, 4)) == pytest.approx(0.040 + 0.120 + 0.0125)
    assert algorithmic_latency_seconds(student(1, 2)) == pytest.approx(0.020 + 0.020 + 0.0125)


@pytest.mark.parametrize("hop_seconds", [0.01, 0.05])
@pytest.mark.parametrize("size", [7, 80, 999])
def test_features_come_as_of_the_whole_even_where_hops_leave_gaps(
    hop_seconds: float, size: int
) -> None:
    extractor = LogMel(FeatureParams(hop_seconds=hop_seconds, normalise="running"), 8000)
    waveform = torch.from_numpy(speak("cab", 1))
    stream = LogMelStream(extractor)
    found = [stream.push(chunk) for chunk in waveform.split(size)]
    found.append(stream.push(waveform[:0], last=True))
    torch.testing.assert_close(torch.cat(found), extractor(waveform), atol=1e-4, rtol=0)


@given(best=st.lists(st.integers(0, 3), max_size=20), cuts=st.lists(st.integers(0, 20), max_size=5))
def test_repeats_collapse_across_pieces(best: list[int], cuts: list[int]) -> None:
    log_probs = np.eye(4)[best].reshape(-1, 4)
    path = GreedyPath()
    for piece in pieces(log_probs, cuts):
        path.push(piece)
    assert path.tokens == greedy_tokens(log_probs)
    assert [best[frame] for frame in path.frames] == path.tokens


def test_tokens_bear_the_frame_in_which_they_begin() -> None:
    path = GreedyPath()
    for best in ([0, 2, 2], [2, 0, 2], [1]):
        path.push(np.eye(3)[best])
    assert (path.tokens, path.frames) == ([2, 2, 1], [1, 5, 6])


def test_what_waits_for_the_end_cannot_stream() -> None:
    model = student()
    waiting = Recogniser(model.network, model.architecture, FeatureParams(), VOCABULARY, 8000)
    assert can_stream(model)
    assert not can_stream(waiting)
    with pytest.raises(
        ModelError, match="causal_conv with features normalised 'bands' waits for the end of an"
    ):
        StreamingRecogniser(waiting)


def test_nothing_may_follow_the_last_chunk() -> None:
    stream = StreamingRecogniser(student())
    stream.push(speak("a", 0), last=True)
    with pytest.raises(ModelError, match="a chunk came after the last one; start a new stream"):
        stream.push(speak("a", 0))


@pytest.mark.parametrize("cuts", [[], [1, 139, 140, 3000], list(range(400, 8000, 400))])
def test_kaldi_features_stream_as_well(cuts: list[int]) -> None:
    model, waveform = student(3, 4, "kaldi_fbank"), speak("abc cab ba", 5)
    recognition = StreamingRecogniser(model)
    *first, last = pieces(waveform, cuts)
    parts = [recognition.push(piece) for piece in first] + [recognition.push(last, last=True)]
    (expected,) = model.log_probs([waveform])
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-3)
    assert recognition.text == greedy_text(expected, VOCABULARY) != ""
