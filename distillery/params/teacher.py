"""The section `teacher`, one form for each kind of teacher."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from distillery.params.base import (
    Fraction,
    NonEmptyText,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    RegistryUri,
    SampleRate,
    Section,
    SpeedFactors,
)
from distillery.params.models import ConvBiLSTMParams, FeatureParams, TeacherArchitecture
from distillery.params.training import Epochs, SpecAugmentParams, TrainingParams


class TeacherSection(Section):
    """What all kinds of teachers share."""

    allow_poor: bool = False
    """Go on with a teacher whose validation WER is above that of a student's control, which has
    learnt nothing from it; else the stage `distill` stops there."""


class TrainedTeacherParams(TeacherSection):
    """A teacher trained here, by CTC, on the training split."""

    kind: Literal["trained"] = "trained"
    """Where the teacher comes from."""
    architecture: TeacherArchitecture = ConvBiLSTMParams(type="conv_bilstm")
    """The network."""
    features: FeatureParams = FeatureParams()
    """What it hears."""
    speed_factors: SpeedFactors = ()
    """Copies of the training audio played at these speeds are added; each adds one copy's cost."""
    training: TrainingParams = TrainingParams()
    """How it is trained."""


class RegistryTeacherParams(TeacherSection):
    """A registered student as the teacher of others, such as the last champion."""

    kind: Literal["registry"]
    """Where the teacher comes from."""
    model: RegistryUri
    """Which one: models:/NAME@ALIAS or models:/NAME/VERSION; make fetch follows a moved alias."""


class HearingParams(TeacherSection):
    """How pre-trained models hear long audio."""

    chunk_seconds: PositiveFloat | None = None
    """Longer audio is cut into pieces of so many seconds, their frames joined; null: whole."""
    context_seconds: NonNegativeFloat = 2.0
    """Audio that each piece hears before and behind itself, in seconds; more comes nearer to what
    the whole would give, and costs time."""
    longest_seconds: PositiveFloat = 60.0
    """Audio that is longer and not cut is an error: attention's memory grows with its square."""


class PretrainedTeacherParams(HearingParams):
    """What all pre-trained CTC models have in common: how they hear, and how texts are found."""

    num_hypotheses: Annotated[int, Field(ge=1, le=64)] = 8
    """Texts of an utterance, where the model's tokens are not the corpus's and only texts count."""
    beam_size: Annotated[int, Field(ge=1, le=1000)] = 16
    """Prefixes kept at each frame in their search; more finds likelier texts and costs time."""


class BundleParams(Section):
    """A bundle of torchaudio.pipelines."""

    kind: Literal["torchaudio"]
    """Where the model comes from."""
    bundle: NonEmptyText
    """Its name, such as WAV2VEC2_ASR_BASE_960H; WAV2VEC2_BASE, for fine-tuning, is an encoder."""
    weights: NonEmptyText | None = None
    """A local file with its state dict (.pt, .pth or .safetensors); null downloads it once."""


class TorchaudioTeacherParams(BundleParams, PretrainedTeacherParams):
    """A CTC bundle of torchaudio.pipelines."""


class WhisperParams(Section):
    """How a Whisper teacher decodes."""

    language: NonEmptyText | None = None
    """What is spoken, as Whisper's two- or three-letter code; null: prepare.language, without that
    English. English-only models ignore it."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Whether to write down what is said, or translate it into English."""
    beam_size: PositiveInt = 5
    """Beams of the search, and hypotheses that it gives; more find better ones and take longer."""
    bar: bool = False
    """Whether tokens with characters that students have no token for, such as digits, are barred
    from the search; else Whisper writes as it likes, and prepare.spelling makes words of it."""


class PublishedModelParams(Section):
    """A model in Hugging Face's layout; needs the extra `transformers`."""

    kind: Literal["transformers"]
    """Where the model comes from."""
    model: NonEmptyText
    """A folder, or the name of a repository on the hub, such as facebook/wav2vec2-base-960h."""
    revision: NonEmptyText | None = None
    """Commit, tag or branch of a repository; null takes its main branch."""


class TransformersTeacherParams(PublishedModelParams, PretrainedTeacherParams):
    """A speech recogniser in Hugging Face's layout; needs the extra `transformers`."""

    whisper: WhisperParams = WhisperParams()
    """How a Whisper model decodes; other models do not."""


class FasterWhisperTeacherParams(TeacherSection):
    """A Whisper model in CTranslate2's format, on faster-whisper; needs the extra `whisper`."""

    kind: Literal["faster_whisper"]
    """Where the teacher comes from."""
    model: NonEmptyText
    """A folder, a name such as base or large-v3, or that of a repository on the hub."""
    revision: NonEmptyText | None = None
    """Commit, tag or branch of a repository; null takes its main branch."""
    compute_type: Literal[
        "default",
        "int8",
        "int8_float32",
        "int8_float16",
        "int8_bfloat16",
        "int16",
        "float16",
        "bfloat16",
        "float32",
    ] = "int8"
    """Arithmetic; int8 is the fastest on a CPU, default that of the file. cache.precision does
    nothing here."""
    beam_size: PositiveInt = 5
    """Beams of the search, and hypotheses that it gives; more find better ones and take longer."""
    language: NonEmptyText | None = None
    """What is spoken, as Whisper's two- or three-letter code; null: prepare.language, without that
    detected for each utterance. English-only models ignore it."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Whether to write down what is said, or translate it into English."""
    prompt: NonEmptyText | None = None
    """A text as it could stand before each utterance, in the words and spelling of the domain."""
    hot_words: tuple[NonEmptyText, ...] = ()
    """Words and names to expect."""


class OnnxTeacherParams(PretrainedTeacherParams):
    """A CTC model in an ONNX file that takes waveforms."""

    kind: Literal["onnx"]
    """Where the teacher comes from."""
    model: NonEmptyText
    """Path of the .onnx file; external data lie in its folder."""
    tokens: NonEmptyText
    """Path of its tokens: one a line in the order of the outputs, or JSON from token to index."""
    blank: NonNegativeInt | str = 0
    """The CTC blank among them: its index, or the token."""
    sample_rate_hz: SampleRate = 16000
    """Of the audio that it was trained on, in hertz."""
    normalise: bool = False
    """Whether each waveform is to have zero mean and unit variance, as wav2vec 2.0's have."""
    input: str | None = None
    """Name of the input for waveforms `(batch, samples)`; null takes the only one of numbers."""
    output: str | None = None
    """Name of the output `(batch, frames, tokens)`; null takes the only one of that shape."""
    scores: Literal["auto", "logits", "log_probs", "probabilities"] = "auto"
    """What that output holds; auto sees whether its numbers are shares of 1."""
    hidden_outputs: dict[str, str] = {}
    """Outputs `(batch, frames, width)` that students may learn from, by the layer's name."""


class TextsTeacherParams(TeacherSection):
    """What any recogniser wrote of the corpus's recordings."""

    kind: Literal["texts"]
    """Where the teacher comes from."""
    file: NonEmptyText
    """Its texts: JSON lines, CSV, Parquet or JSON, or a folder of JSON, SRT or WebVTT files."""
    unknown_confidence: Fraction = 1.0
    """In texts whose file says nothing about it; see distill.filter.min_confidence."""


class EndpointTeacherParams(TeacherSection):
    """A transcription service with OpenAI's interface; it costs money, or is one of your own."""

    kind: Literal["endpoint"]
    """Where the teacher comes from."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
    """Where it is, such as https://api.openai.com; /v1/audio/transcriptions follows."""
    model: NonEmptyText
    """What the service calls the model, such as whisper-1."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """Name of the environment variable that holds the key, never the key; null: it wants none."""
    language: NonEmptyText | None = None
    """What is spoken, as the service calls it, such as en; null: prepare.language, without that
    the service finds out."""
    prompt: NonEmptyText | None = None
    """Words of the domain, or how texts are to be written."""
    response_format: Literal["auto", "verbose_json", "json"] = "auto"
    """verbose_json has confidences, json has none; auto takes json where there is no other."""
    version: str = ""
    """Change it when the service changes its model: the teacher is then another one."""
    unknown_confidence: Fraction = 1.0
    """In texts of which the service says nothing about it; see distill.filter.min_confidence."""
    parallel: Annotated[int, Field(ge=1, le=64)] = 4
    """Requests at a time, of each of cache.workers."""
    timeout_seconds: PositiveFloat = 120.0
    """Without a sign of life, after which a request counts as failed."""
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 6
    """Of each request, where it is worth another try."""
    price_per_minute: NonNegativeFloat = 0.0
    """Of audio, in any currency, for reports/cache.json."""

    @model_validator(mode="after")
    def _key_stays_secret(self) -> EndpointTeacherParams:
        host = re.sub(r"^https?://|[:/].*$", "", self.url.replace("[::1]", "localhost"))
        plain = self.url.startswith("http://") and host not in ("localhost", "127.0.0.1")
        if plain and self.key_variable is not None:
            raise ValueError(
                "url begins with http://, so the key would travel readable for everybody; use "
                "https://, or set key_variable to null"
            )
        return self


class FrozenParams(Section):
    """Which part of a pre-trained model keeps its weights while the rest is fine-tuned."""

    extractor: bool = True
    """The convolutions over the waveform; training them too costs time and needs much data."""
    layers: NonNegativeInt = 0
    """The first so many Transformer layers, and all that lies beneath them; more is faster, and
    safer where transcripts are few."""

    @model_validator(mode="after")
    def _from_below(self) -> FrozenParams:
        if self.layers and not self.extractor:
            raise ValueError(
                f"layers is {self.layers}, but extractor, which lies beneath them, is false; set "
                "layers to 0, or extractor to true"
            )
        return self


class FineTuningParams(TrainingParams):
    """One training run that starts from pre-trained weights."""

    learning_rate: PositiveFloat = 1e-4
    """Peak step size of AdamW for the new output layer; layers below take less, see layer_decay."""
    num_epochs: Epochs = 40
    """Passes over the training split; auto goes on until validation has stopped improving."""
    specaugment: SpecAugmentParams = SpecAugmentParams()
    """Masks on what the convolutions give, whose channels stand where mels are elsewhere."""


class FineTunedTeacherParams(HearingParams):
    """A pre-trained encoder, fine-tuned here by CTC on the training split."""

    kind: Literal["fine_tuned"]
    """Where the teacher comes from."""
    base: Annotated[BundleParams | PublishedModelParams, Field(discriminator="kind")]
    """The model to start from; an output layer that it may have is replaced by a new one."""
    frozen: FrozenParams = FrozenParams()
    """What is not trained."""
    layer_decay: PositiveFraction = 0.9
    """Each layer takes this share of the step size of the one above it, the output layer all of
    it; less keeps lower layers nearer to what they were."""
    speed_factors: SpeedFactors = ()
    """Copies of the training audio played at these speeds are added; each adds one copy's cost."""
    training: FineTuningParams = FineTuningParams()
    """How it is trained."""


def _kind_of_teacher(value: Any) -> str:
    """Return what tells the kinds apart; settings that name none mean a trained teacher."""
    if isinstance(value, dict):
        return str(value.get("kind", "trained"))
    return str(getattr(value, "kind", None))  # a number or a text is of no kind


SINGLE_KINDS = (
    Annotated[TrainedTeacherParams, Tag("trained")]
    | Annotated[RegistryTeacherParams, Tag("registry")]
    | Annotated[TorchaudioTeacherParams, Tag("torchaudio")]
    | Annotated[TransformersTeacherParams, Tag("transformers")]
    | Annotated[OnnxTeacherParams, Tag("onnx")]
    | Annotated[FineTunedTeacherParams, Tag("fine_tuned")]
    | Annotated[TextsTeacherParams, Tag("texts")]
    | Annotated[EndpointTeacherParams, Tag("endpoint")]
    | Annotated[FasterWhisperTeacherParams, Tag("faster_whisper")]
)
"""One form for each kind of teacher that is not made of others."""
_NAMES = ", ".join(sorted(repr(get_args(form)[1].tag) for form in get_args(SINGLE_KINDS)))

SingleTeacherParams = Annotated[
    SINGLE_KINDS,
    Discriminator(
        _kind_of_teacher,
        custom_error_type="teacher_kind",
        custom_error_message=f"kind should be {_NAMES}, or 'ensemble' of these",
    ),
]
"""Settings of a teacher that is not made of others."""


class EnsembleTeacherParams(TeacherSection):
    """Several teachers as one."""

    kind: Literal["ensemble"]
    """Where the teacher comes from."""
    members: Annotated[tuple[SingleTeacherParams, ...], Field(min_length=2)]
    """The teachers, of any other kind, the best one first: it decides among equals. Whether they
    are allowed to be poor is asked of the ensemble alone."""
    combine: Literal["auto", "posteriors", "rover", "best"] = "auto"
    """What is combined: the mean of the members' posteriors, which needs equal tokens and frame
    rates, or their texts, by vote (ROVER) or by taking the surest member's; auto takes posteriors
    where they can be averaged with no higher validation WER than rover's, and rover elsewhere."""
    weights: tuple[PositiveFloat, ...] | None = None
    """Of the members, in their order; only the ratios matter; null: equal."""
    count_share: Fraction = 0.5
    """Share of voices in ROVER's vote, the rest is confidence; with two members voices alone never
    decide."""

    @model_validator(mode="after")
    def _members_differ(self) -> EnsembleTeacherParams:
        own = [member.model_dump(exclude={"allow_poor"}) for member in self.members]
        for number, member in enumerate(own):
            if member in own[:number]:
                raise ValueError(
                    f"members {own.index(member)} and {number} are equal, which would "
                    "count one teacher twice; give trained ones other seeds or settings, or use "
                    "weights"
                )
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(
                f"weights holds {len(self.weights)} numbers for {len(self.members)} members; give "
                "one for each"
            )
        return self


def _is_ensemble(value: Any) -> str:
    return "ensemble" if _kind_of_teacher(value) == "ensemble" else "single"


TeacherParams = Annotated[
    Annotated[SingleTeacherParams, Tag("single")]
    | Annotated[EnsembleTeacherParams, Tag("ensemble")],
    Discriminator(_is_ensemble),
]
"""Settings of the stage `teacher`, one form for each kind of teacher."""
