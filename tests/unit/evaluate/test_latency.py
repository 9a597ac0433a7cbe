import numpy as np
import pytest
import torch

from distillery.evaluate.latency import Heard, emission_delay_seconds, latency_figures, listen
from distillery.models.decoding import greedy_tokens
from tests.tiny import speak
from tests.tiny_students import STREAMING_VOCABULARY as VOCABULARY
from tests.tiny_students import streaming_student as student


def heard(tokens: list[int], frames: list[int], chunk_seconds: tuple[float, ...] = ()) -> Heard:
    return Heard(VOCABULARY.decode(tokens), tokens, frames, list(chunk_seconds))


def test_tokens_of_both_paths_are_compared_in_time() -> None:
    # Teacher: tokens 2, 3, 4 at frames 1, 5, 9 of 20 ms; the student hears 2 and 4 at frames 1 and
    # 6 of 40 ms: 40 - 20 = 20 ms and 240 - 180 = 60 ms
    teacher, own = [heard([2, 3, 4], [1, 5, 9])], [heard([2, 4], [1, 6])]
    assert emission_delay_seconds(own, 0.04, teacher, 0.02) == pytest.approx(0.04)
    assert emission_delay_seconds(teacher, 0.02, teacher, 0.02) == 0


def test_the_delay_is_a_mean_over_tokens_of_all_utterances() -> None:
    teacher = [heard([2], [0]), heard([3, 4], [1, 2]), heard([], [])]
    own = [heard([2], [3]), heard([3, 4], [1, 2]), heard([2], [7])]
    assert emission_delay_seconds(own, 1.0, teacher, 1.0) == pytest.approx(3 / 3)


def test_without_a_common_token_there_is_no_delay() -> None:
    assert emission_delay_seconds([heard([2], [0])], 0.1, [heard([3], [4])], 0.1) is None


def test_figures_by_hand() -> None:
    model = student(3, 4)
    own = [heard([2], [3], (0.002, 0.004)), heard([3], [1], (0.006, 0.008, 0.010))]
    teacher = [heard([2], [1]), heard([3], [1])]
    # sorted: 2, 4, 6, 8, 10; 95 % lies 0.8 of the way from the fourth to the fifth
    found = latency_figures(model, own, 0.32, model, teacher)
    assert found.entries() == pytest.approx(
        {
            "algorithmic": 172.5,
            "chunk": 320.0,
            "compute_median": 6.0,
            "compute_p95": 9.6,
            "final_median": 7.0,  # of 4 and 10
            "emission_delay": 40.0,  # of 80 and 0
        }
    )


@pytest.mark.parametrize("chunk_seconds", [0.01, 0.1, 60.0])
def test_those_that_stream_are_fed_chunk_by_chunk(chunk_seconds: float) -> None:
    model = student()
    waveforms = [speak("ab", 1), speak("abc cab", 2)]
    for waveform, found in zip(waveforms, listen(model, waveforms, chunk_seconds), strict=True):
        (whole,) = model.log_probs([waveform])
        assert found.tokens == greedy_tokens(whole)
        assert found.text == VOCABULARY.decode(found.tokens)
        assert len(found.chunk_seconds) == -(-len(waveform) // round(8000 * chunk_seconds))
        assert min(found.chunk_seconds) > 0
        assert found.frames == sorted(set(found.frames))


def test_one_thread_computes_a_stream_and_the_former_number_comes_back(monkeypatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "distillery.evaluate.latency.StreamingRecogniser.push",
        lambda *_, last: seen.append(torch.get_num_threads()) or np.zeros((0, 5)),
    )
    torch.set_num_threads(2)
    try:
        listen(student(), [speak("a", 0)], 0.1)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
