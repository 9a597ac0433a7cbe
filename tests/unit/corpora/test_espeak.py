from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distillery.corpora.espeak import Voice, speak
from distillery.data.manifest import audio_key
from distillery.errors import AudioError, CorpusError

loader = pytest.importorskip("espeakng_loader", reason="the extra `demo` is not installed")

# Flutter and echo remember what was said before (f2, m3), some noise is seeded from the clock
# (Alicia), some comes from the C library (Reed, caleb); adam has none of these.
VARIANTS = ("f2", "m3", "Alicia", "Reed", "caleb", "adam")
VOICES = [Voice("en-us", variant, 150, 50) for variant in VARIANTS]
SENTENCES = ("turn on the light", "call anna")
IN_ANOTHER_ORDER = """
from tests.unit.corpora.test_espeak import SENTENCES, VOICES, audio_key, speak
for voice in reversed(VOICES):
    for sentence in reversed(SENTENCES):
        key = audio_key(speak(voice, sentence)[0])
        print(voice.variant, sentence.split()[0], key)
"""


def test_a_sentence_becomes_speech_of_a_plausible_length() -> None:
    samples, rate = speak(VOICES[0], "turn on the light in the kitchen")
    assert samples.dtype == np.int16
    assert rate == 22050
    assert 1.0 < len(samples) / rate < 3.0
    assert np.sqrt(np.mean(samples.astype(float) ** 2)) > 300


def test_rate_and_pitch_change_the_speech() -> None:
    sentence = "turn on the light in the kitchen"
    slow, fast = (speak(Voice("en-us", "m1", rate, 50), sentence)[0] for rate in (100, 200))
    assert len(slow) > 1.4 * len(fast)
    low, high = (speak(Voice("en-us", "m1", 150, pitch), sentence)[0] for pitch in (30, 70))
    assert audio_key(low) != audio_key(high)


def test_the_audio_depends_on_nothing_said_before_in_this_or_another_process() -> None:
    root = Path(__file__).resolve().parents[3]
    first = {
        (voice.variant, sentence.split()[0]): audio_key(speak(voice, sentence)[0])
        for voice in VOICES
        for sentence in SENTENCES
    }
    again = {
        (voice.variant, sentence.split()[0]): audio_key(speak(voice, sentence)[0])
        for sentence in SENTENCES
        for voice in reversed(VOICES)
    }
    assert again == first
    assert len(set(first.values())) == len(VOICES) * len(SENTENCES)
    elsewhere = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_ORDER],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.split() for line in elsewhere.stdout.splitlines())
    assert {(variant, word): key for variant, word, key in lines} == first


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(AudioError, match=r"voice 'xx-none\+f1': espeak-ng has no such voice"):
        speak(Voice("xx-none", "f1", 150, 50), "go")


def test_silence_is_an_error() -> None:
    with pytest.raises(AudioError, match="stays silent at ''"):
        speak(VOICES[0], "")


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(CorpusError, match=r'pip install "distillery\[demo\]"'):
        speak(VOICES[0], "go")


def test_missing_voice_data_is_named_and_does_not_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "get_data_path", lambda: str(tmp_path / "none"))
    with pytest.raises(CorpusError, match=r"cannot read its data in .*none; reinstall it"):
        speak(VOICES[0], "go")
