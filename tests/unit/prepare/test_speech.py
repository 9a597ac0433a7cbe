"""The detector: the package's own answers, whatever the blocks and the rate."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distillery.corpora.espeak import Voice, speak
from distillery.data.audio import Reader
from distillery.errors import CorpusError
from distillery.prepare import speech
from distillery.prepare.speech import FRAME_SECONDS, RATE_HZ, Detector, find_model
from tests.recordings import written

pytest.importorskip("silero_vad", reason="the extra `segment` is not installed")
pytest.importorskip("espeakng_loader", reason="the extra `demo` is not installed")

SENTENCE = "turn on the light in the kitchen and call anna after lunch"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def spoken(pause_seconds: float = 1.0) -> tuple[np.ndarray, int]:
    samples, rate = speak(Voice("en-us", "adam", 150, 50), SENTENCE)
    pause = np.zeros(round(pause_seconds * rate), np.int16)
    return np.concatenate([pause, samples, pause]), rate


def test_probabilities_are_those_of_the_package(detector: Detector) -> None:
    sequence = pytest.importorskip("silero_vad.sequence_vad")
    samples = np.random.default_rng(0).normal(0, 0.1, RATE_HZ * 40).astype(np.float32)
    samples[RATE_HZ : 30 * RATE_HZ] *= np.sin(np.arange(29 * RATE_HZ) / 900)
    content = written(samples, "WAV", RATE_HZ, subtype="FLOAT")
    found, seconds = detector.probabilities(Reader(content, "x.wav"))
    rounded = np.concatenate([block for block, _ in Reader(content, "x.wav").blocks()])
    model = sequence.SileroVADSequence(str(find_model()))
    expected = model.audio_forward(rounded.astype(np.float32) / 32768)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert seconds == 40.0


def test_blocks_of_any_size_give_the_same(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate = spoken()
    content = written(samples, "WAV", rate)
    whole, _ = detector.probabilities(Reader(content, "x.wav"))
    blocks = Reader.blocks

    def in_bits(self: Reader) -> Iterator[tuple[np.ndarray, int]]:
        for block, hertz in blocks(self):
            for start in range(0, len(block), 777):
                yield block[start : start + 777], hertz

    monkeypatch.setattr(Reader, "blocks", in_bits)
    monkeypatch.setattr(speech, "CALL_FRAMES", 7)
    bits, _ = detector.probabilities(Reader(content, "x.wav"))
    np.testing.assert_allclose(bits, whole, atol=1e-4)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 44100, 48000])
def test_speech_is_found_at_any_rate_and_where_it_is(detector: Detector, rate_hz: int) -> None:
    import soxr

    samples, rate = spoken()
    content = written(soxr.resample(samples, rate, rate_hz), "WAV", rate_hz)
    found, seconds = detector.probabilities(Reader(content, "x.wav"))
    assert seconds == pytest.approx(len(samples) / rate, abs=0.001)
    assert len(found) == pytest.approx(seconds / FRAME_SECONDS, abs=1)
    begins = np.flatnonzero(found >= 0.5)[0] * FRAME_SECONDS
    ends = (np.flatnonzero(found >= 0.5)[-1] + 1) * FRAME_SECONDS
    assert 0.9 < begins < 1.3
    assert seconds - 1.5 < ends < seconds - 0.7


def test_memory_holds_a_block_however_long_the_recording_is(detector: Detector) -> None:
    class Long(Reader):
        def blocks(self, max_seconds: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
            for _ in range(60):
                yield np.zeros(5 * RATE_HZ, np.int16), RATE_HZ

    tracemalloc.start()
    found, seconds = detector.probabilities(Long(b"", "long.wav"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds == 300.0
    assert len(found) == 300 / FRAME_SECONDS
    assert peak < 6e6  # its samples as floats would be 19 MB


@pytest.mark.parametrize("is_there", [True, False])
def test_without_its_model_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    if is_there:
        monkeypatch.setattr(speech, "MODEL", Path("data", "another.onnx"))
    else:
        monkeypatch.setattr(speech, "find_spec", lambda name: None)
    found = "has no model" if is_there else "is not installed"
    with pytest.raises(CorpusError, match=rf"{found}.*pip install 'distillery\[segment\]'"):
        Detector()
