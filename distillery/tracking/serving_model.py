"""A registered student as MLflow serves it: recordings in, texts out.

MLflow stores this file as code, so nothing is pickled; it runs it when it logs, loads or serves the
model. Heavy imports wait until the model is loaded.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel

if TYPE_CHECKING:
    import numpy as np

ARTIFACT = "model"


class Clip(BaseModel):
    """One recording."""

    audio_b64: str
    """A whole WAV or FLAC file, base64."""
    hot_words: list[str] | None = None
    """Words or phrases that are expected in it, `TEXT` or `TEXT=WEIGHT`, beside the version's."""


class BadClipError(MlflowException):
    """A clip that cannot be transcribed; servers answer with status 400 and the reason.

    MLflow's server sets a message anew, with the whole input in front of it: megabytes of base64.
    The first one stays.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason
        super().__init__(reason, INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """Which clip, and what is wrong with it."""
        return self._reason

    @message.setter
    def message(self, _: str) -> None:
        pass


class SpeechModel(PythonModel):
    """Transcribes recordings with one student."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the student's files after a look at their SHA-256."""
        from distillery.params.register import ServeLimits
        from distillery.serve.served import load_served
        from distillery.tracking.bundle import check_bundle
        from distillery.tracking.versions import LIMITS_CONFIG

        folder = Path(context.artifacts[ARTIFACT])
        check_bundle(folder)
        self.recogniser = load_served(folder)
        limits = (context.model_config or {}).get(LIMITS_CONFIG, {})
        self.limits = ServeLimits.model_validate(limits)

    # MLflow calls this form when the input's type is given.
    def predict(  # type: ignore[override]
        self, model_input: list[Clip], params: dict[str, Any] | None = None
    ) -> list[str]:
        """Return one text per clip, in order.

        Raises:
            BadClipError: there is no clip, one is no base64 or no recording, or all together are
                more than the limits allow; nothing is transcribed then.
        """
        from distillery.errors import AudioError, ModelError
        from distillery.serve.texts import parse_hot_words

        if not model_input:
            raise BadClipError("inputs: holds no clips, expected one or more")
        try:
            waveforms = self._decode(model_input)
        except AudioError as error:
            raise BadClipError(str(error)) from None
        texts = []
        for index, (clip, waveform) in enumerate(zip(model_input, waveforms, strict=True)):
            try:
                hot_words = parse_hot_words(clip.hot_words or (), self.recogniser.vocabulary)
            except ModelError as error:
                raise BadClipError(f"clip {index}: {error}") from None
            texts += self.recogniser.transcribe([waveform], hot_words)
        return texts

    def _decode(self, clips: list[Clip]) -> list[np.ndarray]:
        """Return each clip's waveform `(samples,)`; no more is decoded than the limits allow."""
        from distillery.data.audio import load_audio

        rate = self.recogniser.sample_rate_hz
        max_bytes, max_seconds = self.limits.max_bytes, self.limits.max_seconds
        num_bytes = sum(len(clip.audio_b64) * 3 // 4 for clip in clips)
        if num_bytes > max_bytes:
            raise BadClipError(
                f"inputs: recordings of {num_bytes} bytes, expected {max_bytes} at most in one "
                "request; send fewer or shorter ones"
            )
        waveforms: list[np.ndarray] = []
        seconds = 0.0
        for index, clip in enumerate(clips):
            name = f"clip {index}"
            try:
                content = base64.b64decode(clip.audio_b64, validate=True)
            except ValueError as error:
                raise BadClipError(f"{name}: audio_b64 is not base64: {error}") from None
            waveforms.append(load_audio(content, rate, name, max_seconds))
            seconds += len(waveforms[-1]) / rate
            if seconds > max_seconds:
                raise BadClipError(
                    f"inputs: {seconds:g} s of audio up to clip {index}, expected {max_seconds:g} "
                    "at most in one request; send fewer clips"
                )
        return waveforms


mlflow.models.set_model(SpeechModel())
