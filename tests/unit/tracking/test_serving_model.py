"""Clips of every kind through the served model: the same reader, errors with status 400."""

from __future__ import annotations

import base64

import pytest

from distillery.data.audio import load_audio
from distillery.params.register import ServeLimits
from distillery.serve.torch_transcriber import TorchTranscriber
from distillery.tracking.serving_model import BadClipError, Clip, SpeechModel
from tests.recordings import kinds, mp3, tone, written
from tests.tiny import RATE_HZ, speak
from tests.tiny_students import talking_student


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    model = SpeechModel()
    model.recogniser = TorchTranscriber(talking_student(0))
    model.limits = ServeLimits()
    return model


def clip(content: bytes) -> Clip:
    return Clip(audio_b64=base64.b64encode(content).decode())


def test_every_kind_is_transcribed(model: SpeechModel) -> None:
    samples = speak("ab", 1)
    contents = [written(samples, kind, RATE_HZ, subtype=subtype) for kind, subtype in kinds()]
    contents.append(mp3(samples, with_count=False, rate_hz=RATE_HZ, bitrate_mode="VARIABLE"))
    texts = model.predict([clip(content) for content in contents])
    expected = [model.recogniser.transcribe([load_audio(c, RATE_HZ)])[0] for c in contents]
    assert texts == expected
    assert any(texts)


@pytest.mark.parametrize("content", [b"words", b"", b"fLaC", b"\xff\xfb\x90\x00", b"OggS" * 9])
def test_what_is_no_recording_is_named(model: SpeechModel, content: bytes) -> None:
    good = clip(written(tone(0.2, RATE_HZ), "WAV", RATE_HZ))
    with pytest.raises(BadClipError, match="^clip 1: ") as caught:
        model.predict([good, clip(content)])
    assert caught.value.get_http_status_code() == 400


def test_an_odd_rate_counts_by_its_seconds(model: SpeechModel) -> None:
    content = written(tone(10.0, RATE_HZ - 1), "WAV", RATE_HZ - 1)
    assert len(model.predict([clip(content)])) == 1
    model.limits = ServeLimits(max_seconds=9.0)
    with pytest.raises(BadClipError, match="clip 0: longer than 9 s, expected that at most"):
        model.predict([clip(content)])
