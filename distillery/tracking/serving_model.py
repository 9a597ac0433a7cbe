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
    from collections.abc import Sequence

    import numpy as np

    from distillery.decoder.trie import HotWord
    from distillery.files import Json

ARTIFACT = "model"
MAX_N_BEST = 100


class Clip(BaseModel):
    """One recording."""

    audio_b64: str
    """A whole WAV or FLAC file, base64."""
    hot_words: list[str] | None = None
    """Words or phrases that are expected in it, `TEXT` or `TEXT=WEIGHT`, beside the version's."""
    words: bool | None = None
    """Whether the answer holds times and confidence of each word."""
    n_best: int | None = None
    """How many texts that may have been spoken it holds; the same with words, for one of up to a
    minute."""

    @property
    def is_plain(self) -> bool:
        """Whether the answer is the text alone."""
        return not self.words and self.n_best is None


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

    # MLflow calls this form when the input's type is given. Answers are texts or objects, which it
    # knows no type for: it warns of what stands for that, and not where nothing does.
    def predict(  # type: ignore[no-untyped-def, override]
        self, model_input: list[Clip], params: dict[str, Any] | None = None
    ):
        """Return one answer per clip, in order.

        It is the text; of a clip that asks for words or n_best, what `Transcript.entries` holds.

        Raises:
            BadClipError: there is no clip, one is no base64 or no recording, all together are more
                than the limits allow, or n_best cannot be had.
        """
        from distillery.errors import AudioError, ModelError
        from distillery.serve.texts import parse_hot_words

        if not model_input:
            raise BadClipError("inputs: holds no clips, expected one or more")
        try:
            waveforms = self._decode(model_input)
        except AudioError as error:
            raise BadClipError(str(error)) from None
        answers: list[Any] = []
        for index, (clip, waveform) in enumerate(zip(model_input, waveforms, strict=True)):
            try:
                hot_words = parse_hot_words(clip.hot_words or (), self.recogniser.vocabulary)
            except ModelError as error:
                raise BadClipError(f"clip {index}: {error}") from None
            if clip.is_plain:
                answers += self.recogniser.transcribe([waveform], hot_words)
            else:
                answers.append(self._with_words(index, clip, waveform, hot_words))
        return answers

    def _with_words(
        self, index: int, clip: Clip, waveform: np.ndarray, hot_words: Sequence[HotWord]
    ) -> Json:
        """Return a clip's answer with words; a long one is heard in segments."""
        from distillery.data.audio import to_int16
        from distillery.decoder.words import joined
        from distillery.serve.long_audio import MAX_WHOLE_SECONDS
        from distillery.serve.segments import in_segments

        rate, wanted = self.recogniser.sample_rate_hz, clip.n_best or 0
        if not 0 <= wanted <= MAX_N_BEST:
            raise BadClipError(
                f"clip {index}: n_best {wanted}, expected a number from 0 to {MAX_N_BEST}"
            )
        segments = list(in_segments([to_int16(waveform)], rate))
        if wanted and len(segments) > 1:
            raise BadClipError(
                f"clip {index}: {segments[-1].end:g} s, expected {MAX_WHOLE_SECONDS:g} at most "
                "with n_best; send shorter ones, or ask for words alone"
            )
        found = [
            self.recogniser.recognise(segment.samples, hot_words, wanted).later(segment.start)
            for segment in segments
        ]
        return joined(found, self.recogniser.vocabulary).entries

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
