"""Clips of every kind through the served model: the same reader, errors with status 400."""

from __future__ import annotations

import base64

import numpy as np
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


def test_words_and_other_texts_come_where_they_are_asked_for(model: SpeechModel) -> None:
    content = written(speak("ab cab", 1), "WAV", RATE_HZ)
    audio = clip(content).audio_b64
    plain, timed, listed = model.predict(
        [
            Clip(audio_b64=audio),
            Clip(audio_b64=audio, words=True),
            Clip(audio_b64=audio, n_best=3),
        ]
    )
    assert isinstance(plain, str) and list(timed) == ["text", "words"]
    assert timed["text"] == listed["text"] == plain
    assert " ".join(word["text"] for word in timed["words"]) == plain
    assert all(list(w) == ["text", "start", "end", "confidence"] for w in timed["words"])
    assert listed["n_best"][0]["text"] == plain
    assert len(listed["n_best"]) == 3 and listed["words"] == timed["words"]
    found = model.recogniser.recognise(load_audio(content, RATE_HZ), (), 3)
    assert listed == found.entries


def test_words_of_a_long_clip_are_those_of_its_segments(model: SpeechModel) -> None:
    model.limits = ServeLimits()
    said = np.resize(speak("ab cab", 1), 65 * RATE_HZ)
    content = written(said, "WAV", RATE_HZ)
    (found,) = model.predict([Clip(audio_b64=clip(content).audio_b64, words=True)])
    times = [word["start"] for word in found["words"]]
    assert times == sorted(times) and times[-1] > 45
    assert " ".join(word["text"] for word in found["words"]) == found["text"]
    with pytest.raises(BadClipError, match="clip 0: 65 s, expected 60 at most with n_best"):
        model.predict([Clip(audio_b64=clip(content).audio_b64, n_best=3)])


@pytest.mark.parametrize("number", [-1, 101])
def test_how_many_texts_has_bounds(model: SpeechModel, number: int) -> None:
    content = written(speak("ab", 1), "WAV", RATE_HZ)
    with pytest.raises(BadClipError, match=f"clip 0: n_best {number}, expected a number from 0"):
        model.predict([Clip(audio_b64=clip(content).audio_b64, n_best=number)])
