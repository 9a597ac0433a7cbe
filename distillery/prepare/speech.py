"""Where people speak: Silero's voice activity detector, fed block by block.

The wheel `silero-vad` carries the model that is run here (16 kHz, many frames a call); importing
the package would import PyTorch for nothing, so its file is read where it lies. Memory holds a
block of audio, whatever the recording's length. Source of how it is called:
`silero_vad/sequence_vad.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from distillery.data.audio import Reader, as_waveform
from distillery.errors import AudioError, CorpusError

RATE_HZ = 16000
FRAME_SAMPLES = 512
CONTEXT_SAMPLES = 64
"""Of the frame before, which the model sees in front of each."""
FRAME_SECONDS = FRAME_SAMPLES / RATE_HZ
STATE_SHAPE = (1, 1, 128)
CALL_FRAMES = 512
"""In one call: 16 s."""
MODEL = Path("data", "silero_vad_16k_sequence.onnx")


def find_model() -> Path:
    """Return the file of the detector.

    Raises:
        CorpusError: the optional extra is not installed, or is another version.
    """
    spec = find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(folder) / MODEL).is_file():
            return path
    found = "has no model of the expected name" if spec is not None else "is not installed"
    raise CorpusError(
        f"prepare.segment: needs the package silero-vad (6.2 or newer), which {found}; it is an "
        "extra: make install, or pip install 'distillery[segment]'"
    )


class Detector:
    """A loaded model; threads may share it, for what it knows of a recording is kept by the call.

    Raises:
        CorpusError: as `find_model`.
    """

    def __init__(self) -> None:
        """Load the model, on one thread."""
        import onnxruntime  # waits here: without prepare.segment nothing needs it

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(find_model()), options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, reader: Reader) -> tuple[np.ndarray, float]:
        """Return how probable speech is in each frame of a recording, and its length.

        Args:
            reader: the recording, at any rate.

        Returns:
            float32 `(frames,)`, a frame being `FRAME_SECONDS`, the last one filled up with
            silence; and seconds.

        Raises:
            AudioError: as `Reader.blocks`.
        """
        found: list[np.ndarray] = []
        state = {"h": np.zeros(STATE_SHAPE, np.float32), "c": np.zeros(STATE_SHAPE, np.float32)}
        context = np.zeros(CONTEXT_SAMPLES, np.float32)
        length = _Length()
        for frames in _frames(_at_rate(reader, length)):
            before = np.concatenate([context[None], frames[:-1, -CONTEXT_SAMPLES:]])
            context = frames[-1, -CONTEXT_SAMPLES:]
            values, state["h"], state["c"] = self._session.run(
                ["speech_probs", "hn", "cn"],
                {"input": np.concatenate([before, frames], axis=1), **state},
            )
            found.append(values.reshape(-1))
        return np.concatenate([np.empty(0, np.float32), *found]), length.seconds


class _Length:
    """How long a recording is, once it was read."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.rate_hz = RATE_HZ

    @property
    def seconds(self) -> float:
        return self.num_samples / self.rate_hz


def _at_rate(reader: Reader, length: _Length) -> Iterator[np.ndarray]:
    """Yield float32 `(samples,)` at the model's rate, block by block; count what was read."""
    import soxr

    stream: soxr.ResampleStream | None = None
    for block, rate in reader.blocks():
        if length.num_samples and rate != length.rate_hz:
            raise AudioError(f"{reader.name}: changes its rate, expected one; convert it")
        length.num_samples += len(block)
        length.rate_hz = rate
        waveform = as_waveform(block)
        if rate != RATE_HZ:
            stream = stream or soxr.ResampleStream(rate, RATE_HZ, 1, dtype="float32", quality="MQ")
            waveform = stream.resample_chunk(waveform)
        yield waveform
    if stream is not None:
        yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _frames(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield float32 `(frames, FRAME_SAMPLES)`; the last frame is filled up with silence."""
    rest = np.empty(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        while len(rest) >= CALL_FRAMES * FRAME_SAMPLES:
            yield rest[: CALL_FRAMES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
            rest = rest[CALL_FRAMES * FRAME_SAMPLES :]
    if len(rest):
        yield np.pad(rest, (0, -len(rest) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES)
