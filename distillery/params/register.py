"""The section `register`: where MLflow is, who becomes champion, and how it is served."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from distillery.params.base import (
    Confidence,
    Fraction,
    NonEmptyText,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)
from distillery.params.decoder import DecoderParams


class GateParams(Section):
    """What a new student must show, in every format, before it becomes champion.

    Rates of errors and their differences are fractions: 0.01 is one point of WER.
    """

    enabled: bool = True
    """Whether it is judged at all; without, every newly registered student becomes champion."""
    confidence: Confidence = 0.95
    """Coverage of the one-sided intervals; more asks for clearer proof."""
    wer_margin: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.01
    """How much worse than the champion it may be at the far end of that interval, itself no worse;
    larger lets smaller test splits decide, below 0 it must be better by as much."""
    min_utterances: NonNegativeInt = 20
    """Test utterances that the champion did not learn from, below which it is not replaced: an
    interval over a few is too narrow, over one it has no width; 0 lets any number decide."""
    max_wer: PositiveFloat = 0.95
    """WER above which a model is broken, champion or not; one that says nothing has 1."""
    min_speaker_words: PositiveInt = 50
    """Words below which a speaker of the test split is not judged alone; fewer judges more."""
    max_speaker_loss: Fraction = 0.1
    """How much a speaker's WER may rise over the champion's; larger forgives more."""
    max_bytes: PositiveInt | None = None
    """Size of the weights that it may have, in bytes; null sets no limit."""
    max_size_factor: PositiveFloat | None = 2.0
    """How many times the champion's size it may have; null sets no limit."""
    max_real_time_factor: PositiveFloat = 1.0
    """Computing seconds a second of audio may take on one thread of this machine."""
    max_slowdown_factor: PositiveFloat | None = 2.0
    """How many times the champion's real-time factor it may have, unless it has a decoder and the
    champion none; null sets no limit."""


class ServeLimits(Section):
    """What one request to `make serve` may hold; more is refused with a reason."""

    max_seconds: PositiveFloat = 120.0
    """Audio of all its recordings together, or of one stream, in seconds; more takes longer and
    needs more memory."""
    max_bytes: PositiveInt = 16_000_000
    """Bytes of all its recordings together, as files."""
    max_streams: PositiveInt = 32
    """Speakers that are listened to at once while they speak; one more is told to come later."""


class RegisterParams(Section):
    """Settings of the stage `register`."""

    experiment: NonEmptyText = "distillery"
    """MLflow experiment that the runs go to."""
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "distillery"
    """Registered model that the students become versions of."""
    tracking_uri: str | None = None
    """MLflow server (http://…) or database; null keeps both in mlflow.db here. Its password stands
    elsewhere: docs/security.md."""
    serve_format: Literal["torch", "onnx", "onnx-int8"] = "onnx"
    """What serves a registered student: PyTorch, ONNX Runtime, which gives the same texts faster
    and starts sooner, or ONNX Runtime in 8-bit integers, the smallest and fastest."""
    max_format_loss: Fraction = 0.005
    """How much more than PyTorch's the WER in that format may be on the test split, 0.005 being
    half a point; one that loses more is served in the next better format."""
    decoder: DecoderParams | None = None
    """The search that students are measured, judged and served with: n-grams, lexicon, hot words;
    null or false: the best path. `{}` takes the defaults."""
    gate: GateParams = GateParams()
    """What decides who becomes champion."""
    serve_limits: ServeLimits = ServeLimits()
    """How much one request may hold; new versions keep it, and `make serve` takes what stands."""

    @field_validator("decoder", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        """Take true for the defaults and false for none."""
        return {True: {}, False: None}[value] if isinstance(value, bool) else value
