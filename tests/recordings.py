"""Recordings of every kind, made by code, for tests of what reads them."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import soundfile

from distillery.data.decoding.mpeg import parse_frame

RATE_HZ = 16000
NOT_IN_MEMORY = {"RAW", "SD2"}
"""Kinds without a header in the file."""


def tone(seconds: float, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """Return float32 `(samples,)`: a rising tone, a little noise, no two places alike."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    wave = 0.3 * np.sin(2 * np.pi * (300 + 50 * seed + 200 * time) * time) + noise
    return wave.astype(np.float32)


def written(samples: np.ndarray, kind: str, rate_hz: int = RATE_HZ, **settings: Any) -> bytes:
    """Return a recording as a file's bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, **settings)
    return buffer.getvalue()


def kinds() -> list[tuple[str, str]]:
    """Return every container and subtype that libsndfile writes into memory."""
    found = []
    for kind in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(kind):
            if kind not in NOT_IN_MEMORY and soundfile.check_format(kind, subtype):
                try:
                    written(tone(0.1, 8000), kind, 8000, subtype=subtype)
                except soundfile.LibsndfileError:  # listed, and not built in
                    continue
                found.append((kind, subtype))
    return found


def mp3_frames(content: bytes) -> list[bytes]:
    """Return the frames of an MP3 stream."""
    places = [0]
    while (frame := parse_frame(content[places[-1] : places[-1] + 4])) is not None:
        places.append(places[-1] + frame.length)
    return [content[start:end] for start, end in pairwise(places)]


def mp3(samples: np.ndarray, with_count: bool = True, **settings: Any) -> bytes:
    """Return an MP3 file, with the frame that counts the others or without it."""
    content = written(samples, "MP3", subtype="MPEG_LAYER_III", **settings)
    return content if with_count else b"".join(mp3_frames(content)[1:])


def media(
    samples: np.ndarray, kind: str, codec: str, rate_hz: int = RATE_HZ, **options: str
) -> bytes:
    """Return what FFmpeg writes of int16 samples `(samples,)`; PyAV is asked for."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()
