"""espeak-ng through ctypes: a sentence in, int16 samples out, in this process.

espeak-ng keeps hidden state between sentences: the phase of flutter and echo, noise counters, the
C library's random numbers, a seed taken from the clock. Most voices therefore never say a sentence
twice in the same way, not even after espeak_Terminate and espeak_Initialize. Here every sentence
gets a freshly loaded library and fixed seeds, which makes the audio depend on the arguments alone
and costs about 2 ms.

The library is GPL and comes with the optional extra `demo`.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from distillery.errors import AudioError, CorpusError

# speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
RATE, PITCH = 1, 3
POSITION_IS_CHARACTERS = 1
CHARACTERS_ARE_UTF8 = 1
SUCCESS = 0
RANDOM_SEED = 1

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker."""

    accent: str
    """espeak-ng's voice, such as `en-us`."""
    variant: str
    """One of its `!v` variants, such as `f2`."""
    words_per_minute: int
    pitch: int
    """0 to 99; 50 leaves the variant's own."""

    @property
    def name(self) -> str:
        """The name espeak-ng knows it by."""
        return f"{self.accent}+{self.variant}"


def check_installed() -> None:
    """Make sure that the library can be loaded.

    Raises:
        CorpusError: the optional extra is not installed.
    """
    _locate()


def speak(voice: Voice, sentence: str) -> tuple[np.ndarray, int]:
    """Return a spoken sentence: int16 samples `(samples,)` and their rate in hertz.

    Equal arguments give equal samples, whatever was said before and in whichever process.

    Raises:
        CorpusError: the optional extra is not installed, or its data cannot be loaded.
        AudioError: the voice is unknown, or stays silent.
    """
    chunks: list[bytes] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], num_samples: int, _: int) -> int:
        if num_samples > 0:
            chunks.append(ctypes.string_at(samples, num_samples * 2))
        return 0  # go on

    callback = _SynthCallback(collect)  # must outlive the synthesis
    with _one_at_a_time, _fresh_library() as (library, rate_hz):
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.name.encode()) != SUCCESS:
            raise AudioError(f"voice {voice.name!r}: espeak-ng has no such voice")
        library.espeak_SetParameter(RATE, voice.words_per_minute, 0)
        library.espeak_SetParameter(PITCH, voice.pitch, 0)
        encoded = sentence.encode()
        status = library.espeak_Synth(
            encoded,
            ctypes.c_size_t(len(encoded) + 1),
            0,
            POSITION_IS_CHARACTERS,
            0,
            CHARACTERS_ARE_UTF8,
            None,
            None,
        )
    samples = np.frombuffer(b"".join(chunks), dtype=np.int16)  # (samples,)
    if status != SUCCESS or not samples.any():
        raise AudioError(f"voice {voice.name!r}: stays silent at {sentence!r}")
    return samples, rate_hz


def _locate() -> tuple[str, str]:
    try:
        import espeakng_loader
    except ImportError:
        raise CorpusError(
            "corpus commands: espeak-ng, which speaks this corpus, is not installed; "
            'pip install "distillery[demo]"'
        ) from None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


@contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, int]]:
    """Yield the library in its very first state, and its sample rate in hertz."""
    library_path, data_path = _locate()
    library = ctypes.CDLL(library_path)
    try:
        rate_hz = library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data_path), INITIALIZE_DONT_EXIT
        )
        if rate_hz <= 0:
            raise CorpusError(
                f"corpus commands: espeak-ng cannot read its data in {data_path}; reinstall it "
                '(pip install --force-reinstall "distillery[demo]"), in a shorter path if that '
                "fails again"
            )
        library.espeak_ng_SetRandSeed(ctypes.c_long(RANDOM_SEED))
        ctypes.CDLL(None).srand(RANDOM_SEED)
        yield library, rate_hz
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)  # unloads it, and with it all of its state
