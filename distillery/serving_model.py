"""A registered student as MLflow serves it: recordings in, texts out.

MLflow stores this file as code, so nothing is pickled; it runs it when it logs, loads or serves the
model. Heavy imports wait until the model is loaded.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel

ARTIFACT = "model"


class Clip(BaseModel):
    """One recording."""

    audio_b64: str
    """A whole WAV or FLAC file, base64."""


class SpeechModel(PythonModel):
    """Transcribes recordings with one student."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the student's files after a look at their SHA-256."""
        from distillery.bundle import check_bundle
        from distillery.recogniser import Recogniser
        from distillery.students import STUDENTS

        folder = Path(context.artifacts[ARTIFACT])
        check_bundle(folder)
        self.recogniser = Recogniser.load(folder, STUDENTS)

    # MLflow calls this form when the input's type is given.
    def predict(  # type: ignore[override]
        self, model_input: list[Clip], params: dict[str, Any] | None = None
    ) -> list[str]:
        """Return one text per clip, in order.

        Raises:
            MlflowException: a clip is no base64 or no recording; servers answer with status 400.
        """
        return [self._transcribe(index, clip) for index, clip in enumerate(model_input)]

    def _transcribe(self, index: int, clip: Clip) -> str:
        from mlflow.exceptions import MlflowException

        from distillery.audio import load_audio
        from distillery.errors import AudioError

        try:
            content = base64.b64decode(clip.audio_b64, validate=True)
            waveform = load_audio(content, self.recogniser.sample_rate_hz, f"clip {index}")
        except binascii.Error as error:
            raise MlflowException.invalid_parameter_value(
                f"clip {index}: audio_b64 is not base64: {error}"
            ) from None
        except AudioError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return self.recogniser.transcribe([waveform])[0]


mlflow.models.set_model(SpeechModel())
