"""Channels into one: mixed or chosen, and told where mixing loses or mixes up speech."""

from __future__ import annotations

import numpy as np
import pytest

from distillery.data.audio import decode, read_audio, to_int16
from distillery.errors import AudioError
from tests.recordings import tone, written

RATE_HZ = 8000


def caution_of(*channels: np.ndarray, subtype: str = "PCM_16") -> str | None:
    content = written(np.stack(channels, axis=1), "WAV", RATE_HZ, subtype=subtype)
    return read_audio(content).caution


def talk(first: int, seconds: float = 4.0) -> np.ndarray:
    """Return noise that comes and goes every half second."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    speaks = (time * 2).astype(int) % 2 == first
    noise = np.random.default_rng(first).normal(0, 0.1, len(time))
    return (noise * (speaks + 0.01)).astype(np.float32)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_one_channel_is_taken_as_it_is(subtype: str) -> None:
    channels = [tone(0.5, RATE_HZ, seed) for seed in range(3)]
    content = written(np.stack(channels, axis=1), "WAV", RATE_HZ, subtype=subtype)
    for index, channel in enumerate(channels):
        alone = decode(written(channel, "WAV", RATE_HZ, subtype=subtype))[0]
        np.testing.assert_array_equal(read_audio(content, channel=index).samples, alone)
    mixed = to_int16(np.stack(channels).mean(axis=0))
    assert np.abs(decode(content)[0].astype(int) - mixed).max() <= 1


def test_a_channel_that_is_not_there_is_refused() -> None:
    content = written(tone(0.5, RATE_HZ), "WAV", RATE_HZ)
    assert len(read_audio(content, channel=0).samples) == 4000
    with pytest.raises(AudioError, match=r"^a: has 1 channels, counted from 0, expected channel 1"):
        read_audio(content, "a", channel=1)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "VORBIS"])
def test_channels_that_cancel_are_told(subtype: str) -> None:
    one = tone(1.0, RATE_HZ)
    if subtype == "VORBIS":
        content = written(np.stack([one, -one], axis=1), "OGG", RATE_HZ, subtype=subtype)
        caution = read_audio(content).caution
    else:
        caution = caution_of(one, -one, subtype=subtype)
    assert caution is not None
    assert caution.startswith("its 2 channels cancel: -")
    assert caution.endswith("dB mixed; choose one of them")


def test_two_talkers_are_told() -> None:
    caution = caution_of(talk(0), talk(1))
    assert caution is not None
    assert caution.startswith("its channels 0 and 1 hold different sounds (correlation 0.0")
    assert caution_of(tone(4.0, RATE_HZ, 1), tone(4.0, RATE_HZ, 2)) is not None


def test_a_chosen_channel_has_nothing_to_tell() -> None:
    one = tone(1.0, RATE_HZ)
    content = written(np.stack([one, -one], axis=1), "WAV", RATE_HZ)
    assert read_audio(content, channel=0).caution is None


def test_one_talker_before_several_microphones_is_nothing_to_tell() -> None:
    one, other = talk(0), np.roll(talk(0), 7)  # later, as at a second microphone
    silence = np.zeros_like(one)
    noise = np.random.default_rng(3).normal(0, 0.0003, len(one)).astype(np.float32)
    assert caution_of(one, one) is None
    assert caution_of(one, 0.2 * one + noise) is None
    assert caution_of(one, silence) is None
    assert caution_of(one, noise) is None
    assert caution_of(one, other) is None
    assert caution_of(silence, silence) is None
    assert caution_of(*[one] + [silence] * 5) is None
    assert caution_of(one) is None


def test_what_cannot_be_mixed_is_refused() -> None:
    huge = np.full((100, 2), 3e38, np.float32)
    with pytest.raises(AudioError, match="a: holds samples too large to be mixed"):
        decode(written(huge, "WAV", RATE_HZ, subtype="FLOAT"), "a")
    heard = decode(written(huge[:, 0], "WAV", RATE_HZ, subtype="FLOAT"))[0]
    assert set(heard) == {32767}
