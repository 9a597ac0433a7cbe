"""params.yaml as types: one frozen model per section, one section per stage.

Nothing else opens the file. Every field carries one sentence: what it is, its unit, and what a
larger value does.
"""

from __future__ import annotations

import difflib
import re
import warnings
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from distillery.credentials import line_with_credentials
from distillery.errors import ParamsError

PARAMS_FILE = "params.yaml"
WHERE_PASSWORDS_GO = (
    "leave it out there: an MLflow server's goes into MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN), PostgreSQL's into ~/.pgpass"
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
NAME_PATTERN = r"[a-z][a-z0-9_-]{0,40}"
StudentName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
INIT_TEACHER = "teacher"
MEMBERS = "members"  # setting, and folder, of an ensemble's
CONFIGURED = "teacher"
"""What `make teachers` calls the teacher of the section `teacher`."""
INIT_REGISTRY = "models:/"
REGISTRY_PATTERN = rf"{INIT_REGISTRY}[^/@]+(@[^/@]+|/[1-9][0-9]*)"
RegistryUri = Annotated[str, Field(pattern=f"^{REGISTRY_PATTERN}$")]


def _other_speeds(factors: tuple[float, ...]) -> tuple[float, ...]:
    if 1.0 in factors:
        raise ValueError("1 is the audio itself, which is always there; remove it")
    if len(set(factors)) < len(factors):
        raise ValueError("a factor stands twice; name each once")
    return factors


def _lowest_first(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the ends stand in reverse, expected [{ends[1]:g}, {ends[0]:g}]")
    return ends


def _known_timezone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError("no such time zone; UTC never skips or repeats an hour")
    return name


Probability = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0)]
Folder = Annotated[str, Field(min_length=1)]
SpeedFactor = Annotated[float, Field(ge=0.5, le=2.0)]
SpeedFactors = Annotated[tuple[SpeedFactor, ...], AfterValidator(_other_speeds)]


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- prepare -----------------------------------------------------------------------------------


class CommandsParams(Section):
    """How much speech the generated corpus holds."""

    num_train_speakers: PositiveInt = 24
    """Synthetic voices in the training and validation splits; more makes a robuster model."""
    num_test_speakers: PositiveInt = 8
    """Other voices, held out for test; more narrows the test interval."""
    sentences_per_speaker: PositiveInt = 40
    """Sentences that each voice speaks; more is more audio."""
    seed: int = 0
    """Which sentences are drawn from the grammar."""


class LibrispeechParams(Section):
    """Which published parts of LibriSpeech form which split."""

    train: tuple[str, ...] = ("train-clean-100",)
    """Parts for training."""
    valid: tuple[str, ...] = ("dev-clean",)
    """Parts for validation."""
    test: tuple[str, ...] = ("test-clean",)
    """Parts for test."""


class PrepareParams(Section):
    """Settings of the stage `prepare`."""

    corpus: Literal[
        "commands",
        "fsdd",
        "an4",
        "manifest",
        "librispeech",
        "speechcommands",
        "commonvoice",
    ]
    """Which recipe in distillery/corpora reads the source."""
    source: Annotated[str, Field(min_length=1)]
    """The corpus folder; for `commands`, the grammar file."""
    manifest: str = "manifest.csv"
    """For corpus `manifest`: its file name inside the source folder (CSV, TSV, JSONL, Parquet)."""
    download: bool = False
    """Whether a missing public corpus may be downloaded into the source folder."""
    sample_rate_hz: Annotated[int, Field(ge=4000, le=48000)] = 16000
    """Rate of the prepared audio in hertz; keep 8 kHz recordings at 8000."""
    case: Literal["lower", "upper", "keep"] = "lower"
    """What the normaliser does with letter case."""
    alphabet: str | None = "abcdefghijklmnopqrstuvwxyz'"
    """Characters that transcripts may hold, space aside; null takes those of the training texts."""
    valid_fraction: Fraction = 0.1
    """Share of the training speakers (of utterances, where speakers are unknown or too few) that
    validate; chosen by hash, so new data moves none."""
    test_fraction: Fraction = 0.1
    """The same for test, used only where the corpus has no official test split."""
    labelled_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the training utterances that keep their transcripts, chosen by hash of the audio;
    the others count as unlabelled, which shows what students gain from such audio."""
    min_duration_seconds: NonNegativeFloat = 0.1
    """Shorter recordings are dropped."""
    max_duration_seconds: PositiveFloat = 30.0
    """Longer recordings are dropped."""
    ctc_frame_shift_seconds: PositiveFloat = 0.04
    """Frame shift of the slowest model planned, in seconds; larger makes more clips too short for
    CTC."""
    too_short_for_ctc: Literal["drop", "keep"] = "drop"
    """Whether training utterances with fewer frames than labels need are dropped or kept."""
    max_dropped_fraction: Fraction = 0.05
    """The stage fails when a larger share of the utterances was dropped."""
    shard_seconds: PositiveFloat = 3600.0
    """Audio in one packed shard, in seconds; memory while preparing grows with it."""
    commands: CommandsParams = CommandsParams()
    """Settings of corpus `commands`."""
    librispeech: LibrispeechParams = LibrispeechParams()
    """Settings of corpus `librispeech`."""

    @property
    def title(self) -> str:
        """What runs call the data: the corpus, or the folder of one's own recordings."""
        return (self.corpus == "manifest" and Path(self.source).name) or self.corpus


# --- models ------------------------------------------------------------------------------------


class FeatureParams(Section):
    """Log-mel filter-bank features."""

    num_mels: Annotated[int, Field(ge=8, le=256)] = 64
    """Mel bands; more shows finer pitch detail and costs time."""
    window_seconds: PositiveFloat = 0.025
    """Length of the analysis window in seconds."""
    hop_seconds: PositiveFloat = 0.01
    """Distance between feature frames in seconds."""
    normalise: Literal["bands", "level", "running"] = "bands"
    """What gets zero mean and unit variance over the utterance: every mel band, which removes the
    channel, or all bands together, which keeps the spectrum's shape and suits single words.
    `running` is `bands` over the frames so far, for students that stream."""


class ConvBiLSTMParams(Section):
    """Convolutional front end, bidirectional LSTM, linear output."""

    type: Literal["conv_bilstm"]
    conv_channels: PositiveInt = 32
    """Channels of the two convolutions in front."""
    hidden_size: PositiveInt = 256
    """LSTM units per direction."""
    num_layers: PositiveInt = 3
    """LSTM layers."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Dropout between layers."""
    time_reduction: Literal[2, 4] = 4
    """Feature frames per output frame."""


class ConformerParams(Section):
    """torchaudio's Conformer behind a convolutional front end."""

    type: Literal["conformer"]
    conv_channels: PositiveInt = 32
    """Channels of the two convolutions in front."""
    model_size: PositiveInt = 144
    """Width of every layer; a multiple of num_heads."""
    num_heads: PositiveInt = 4
    """Attention heads."""
    num_layers: PositiveInt = 6
    """Conformer blocks."""
    kernel_size: Annotated[int, Field(ge=3, multiple_of=1)] = 15
    """Frames that the depthwise convolution sees; odd."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout in every block."""
    time_reduction: Literal[2, 4] = 4
    """Feature frames per output frame."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> ConformerParams:
        if self.model_size % self.num_heads:
            raise ValueError(
                f"model_size {self.model_size} is not a multiple of num_heads {self.num_heads}"
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even; an odd one is needed")
        return self


class SeparableConvParams(Section):
    """Time-channel separable convolutions (QuartzNet's kind), in the channels-last layout."""

    type: Literal["separable_conv"]
    channels: PositiveInt = 128
    """Channels of every block."""
    num_blocks: PositiveInt = 5
    """Residual blocks."""
    kernel_size: PositiveInt = 11
    """Frames that each depthwise convolution sees; odd."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout after each block."""
    time_reduction: Literal[2, 4] = 4
    """Feature frames per output frame."""

    @model_validator(mode="after")
    def _odd(self) -> SeparableConvParams:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even; an odd one is needed")
        return self


class CausalConvParams(Section):
    """Separable convolutions that stream; features must be normalised `running`."""

    type: Literal["causal_conv"]
    channels: PositiveInt = 128
    """Channels of every block."""
    num_blocks: PositiveInt = 5
    """Residual blocks."""
    kernel_size: PositiveInt = 11
    """Frames that each depthwise convolution sees."""
    lookahead_frames: Annotated[int, Field(ge=0)] = 0
    """Output frames that the network waits for after each one; more helps accuracy and adds as many
    frames of latency."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout after each block."""
    time_reduction: Literal[2, 4] = 4
    """Feature frames per output frame."""

    @model_validator(mode="after")
    def _blocks_reach_so_far(self) -> CausalConvParams:
        reach = self.num_blocks * (self.kernel_size // 2)
        if self.lookahead_frames > reach:
            raise ValueError(
                f"lookahead_frames {self.lookahead_frames} is more than {self.num_blocks} blocks "
                f"with kernels of {self.kernel_size} can see, {reach}; lower it"
            )
        return self


class CRNNParams(Section):
    """Small convolutional front end and a bidirectional GRU."""

    type: Literal["crnn"]
    conv_channels: PositiveInt = 16
    """Channels of the two convolutions in front."""
    hidden_size: PositiveInt = 96
    """GRU units per direction."""
    num_layers: PositiveInt = 1
    """GRU layers."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout between layers."""
    time_reduction: Literal[2, 4] = 4
    """Feature frames per output frame."""


TeacherArchitecture = Annotated[ConvBiLSTMParams | ConformerParams, Field(discriminator="type")]
StudentArchitecture = Annotated[
    SeparableConvParams | CausalConvParams | CRNNParams | ConformerParams | ConvBiLSTMParams,
    Field(discriminator="type"),
]


# --- training ----------------------------------------------------------------------------------


class SpecAugmentParams(Section):
    """SpecAugment without time warping (Park et al., 2019): frames stay where they are."""

    num_time_masks: Annotated[int, Field(ge=0)] = 2
    """Stretches of time hidden in each utterance."""
    max_time_fraction: Fraction = 0.1
    """Longest stretch, as a share of the utterance."""
    num_frequency_masks: Annotated[int, Field(ge=0)] = 2
    """Bands of mels hidden in each utterance."""
    max_frequency_fraction: Fraction = 0.2
    """Widest band, as a share of the mels."""


class TrainingParams(Section):
    """One training run, of a teacher or of a student."""

    seed: int = 0
    """Fixes initial weights, order, dropout and masks; students take theirs from distill.seeds."""
    num_epochs: PositiveInt = 40
    """Passes over the training split."""
    batch_seconds: PositiveFloat = 60.0
    """Audio in one batch, in seconds; larger is smoother and needs more memory."""
    learning_rate: PositiveFloat = 2e-3
    """Peak step size of AdamW."""
    weight_decay: NonNegativeFloat = 1e-2
    """AdamW's weight decay."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the step size rises to its peak; it then falls as a cosine."""
    max_gradient_norm: PositiveFloat = 5.0
    """Gradients are scaled down to this norm."""
    patience: PositiveInt | None = None
    """Epochs without a better validation WER after which training stops; null trains to the end."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass; auto takes bf16 where the hardware computes it, which is
    faster there, and fp32 elsewhere; losses stay fp32."""
    num_threads: PositiveInt = 2
    """CPU threads; fixed because sums, and so the last bits of the weights, depend on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    specaugment: SpecAugmentParams = SpecAugmentParams()
    """Masks on the features of the training split."""


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
    bundle: Annotated[str, Field(min_length=1)]
    """Its name, such as WAV2VEC2_ASR_BASE_960H; WAV2VEC2_BASE, for fine-tuning, is an encoder."""
    weights: Annotated[str, Field(min_length=1)] | None = None
    """A local file with its state dict (.pt, .pth or .safetensors); null downloads it once."""


class TorchaudioTeacherParams(BundleParams, PretrainedTeacherParams):
    """A CTC bundle of torchaudio.pipelines."""


class WhisperParams(Section):
    """How a Whisper teacher decodes."""

    language: str = "en"
    """What is spoken, as Whisper's two- or three-letter code; English-only models ignore it."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Whether to write down what is said, or translate it into English."""
    beam_size: PositiveInt = 5
    """Beams of the search, and hypotheses that it gives; more find better ones and take longer."""


class PublishedModelParams(Section):
    """A model in Hugging Face's layout; needs the extra `transformers`."""

    kind: Literal["transformers"]
    """Where the model comes from."""
    model: Annotated[str, Field(min_length=1)]
    """A folder, or the name of a repository on the hub, such as facebook/wav2vec2-base-960h."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    """Commit, tag or branch of a repository; null takes its main branch."""


class TransformersTeacherParams(PublishedModelParams, PretrainedTeacherParams):
    """A speech recogniser in Hugging Face's layout; needs the extra `transformers`."""

    whisper: WhisperParams = WhisperParams()
    """How a Whisper model decodes; other models do not."""


class OnnxTeacherParams(PretrainedTeacherParams):
    """A CTC model in an ONNX file that takes waveforms."""

    kind: Literal["onnx"]
    """Where the teacher comes from."""
    model: Annotated[str, Field(min_length=1)]
    """Path of the .onnx file; external data lie in its folder."""
    tokens: Annotated[str, Field(min_length=1)]
    """Path of its tokens: one a line in the order of the outputs, or JSON from token to index."""
    blank: Annotated[int, Field(ge=0)] | str = 0
    """The CTC blank among them: its index, or the token."""
    sample_rate_hz: Annotated[int, Field(ge=4000, le=48000)] = 16000
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


class FrozenParams(Section):
    """Which part of a pre-trained model keeps its weights while the rest is fine-tuned."""

    extractor: bool = True
    """The convolutions over the waveform; training them too costs time and needs much data."""
    layers: Annotated[int, Field(ge=0)] = 0
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
    return str(value.get("kind", "trained") if isinstance(value, dict) else value.kind)


SingleTeacherParams = Annotated[
    Annotated[TrainedTeacherParams, Tag("trained")]
    | Annotated[RegistryTeacherParams, Tag("registry")]
    | Annotated[TorchaudioTeacherParams, Tag("torchaudio")]
    | Annotated[TransformersTeacherParams, Tag("transformers")]
    | Annotated[OnnxTeacherParams, Tag("onnx")]
    | Annotated[FineTunedTeacherParams, Tag("fine_tuned")],
    Discriminator(
        _kind_of_teacher,
        custom_error_type="teacher_kind",
        custom_error_message=(
            "kind should be 'fine_tuned', 'onnx', 'registry', 'torchaudio', 'trained', "
            "'transformers', or 'ensemble' of these"
        ),
    ),
]
"""One form for each kind of teacher that is not made of others."""


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


class SparseParams(Section):
    """How many tokens a frame of the payload `sparse` keeps."""

    top_k: Annotated[int, Field(ge=1, le=255)] = 16
    """Most tokens of one frame."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.999
    """Fewer are kept where they hold this share of the mass."""
    near_frames: Annotated[int, Field(ge=0)] = 1
    """So close to a non-blank frame, `top_k` are kept whatever they hold."""
    temperatures: tuple[PositiveFloat, ...] = (2.0, 4.0)
    """Other temperatures than 1 to keep probabilities exact at; each costs 2 bytes a frame."""


class PayloadParams(Section):
    """What the cache keeps of the teacher's outputs; each change means another namespace."""

    log_probs: Literal["auto", "u8", "f16", "f32", "sparse", "none"] = "auto"
    """Layout of the token distributions; auto takes u8 up to 256 tokens, sparse above, none where
    the teacher has none in the students' tokens; none saves most bytes and teaches no frames."""
    sparse: SparseParams = SparseParams()
    """Settings of the layout `sparse`."""
    hidden_layers: tuple[str, ...] = ()
    """Hidden layers kept in half precision; models/teacher/fingerprint.json lists their names, of
    which `last` is the one that the output layer reads."""
    num_hypotheses: PositiveInt = 1
    """Decodings kept with their scores; 1 is the best path, more ask for a beam search."""
    beam_size: PositiveInt = 20
    """Beams of the search when num_hypotheses is above 1; more find better ones and take longer."""


class CacheParams(Section):
    """Settings of the stage `cache`."""

    payload: PayloadParams = PayloadParams()
    """What is kept."""
    speed_factors: SpeedFactors = ()
    """Copies of the training audio played at these speeds have teacher outputs of their own, and
    every student and its control train on them, too; each adds one copy's cost to both."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the teacher's forward pass; bf16 and fp16 are faster on recent hardware."""
    batch_seconds: PositiveFloat = 60.0
    """Audio in one teacher batch, padding included, in seconds; larger needs more memory."""
    shard_seconds: PositiveFloat = 3600.0
    """Audio covered by one shard, in seconds; a kill loses at most the open one."""
    workers: (
        Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^(tcp|tls)://.+:\d+$")]
    ) = 0
    """Who runs the teacher: 0 this process, N local processes, tcp://HOST:PORT a Dask cluster.
    Dask runs what it is sent: use tls:// outside a network that you trust."""
    num_threads: PositiveInt = 1
    """CPU threads of each worker, fixed because the last bits of the outputs depend on it; small
    teachers are fastest with 1 and several workers."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the teacher runs; auto takes a GPU if there is one."""
    audit_utterances: Annotated[int, Field(ge=0)] = 4
    """Utterances on which the live teacher is compared with the cache before training; 0: none."""


# --- distill -----------------------------------------------------------------------------------


class Schedule(Section):
    """A number that changes while a student trains; progress is the share of all steps taken."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )

    start: NonNegativeFloat
    """Value up to `from`."""
    end: NonNegativeFloat
    """Value after `until`."""
    shape: Literal["linear", "cosine"] = "linear"
    """How it goes from one to the other: evenly, or slowly at both ends."""
    from_: Fraction = Field(0.0, alias="from")
    """Progress at which it begins to change; later keeps the start for longer."""
    until: Fraction = 1.0
    """Progress at which it has changed; later changes more slowly."""

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Schedule:
        if self.from_ >= self.until:
            raise ValueError(f"from {self.from_:g} is not below until {self.until:g}")
        return self


def _number_or_schedule(value: object) -> str:
    return SCHEDULE_TAG if isinstance(value, dict | Schedule) else NUMBER_TAG


NUMBER_TAG, SCHEDULE_TAG = "a number", "a schedule"
Scheduled = Annotated[
    Annotated[NonNegativeFloat, Tag(NUMBER_TAG)] | Annotated[Schedule, Tag(SCHEDULE_TAG)],
    Discriminator(_number_or_schedule),
]


def peak(value: float | Schedule) -> float:
    """Return the highest value that a number or a schedule takes."""
    return max(value.start, value.end) if isinstance(value, Schedule) else value


def lowest(value: float | Schedule) -> float:
    """Return the lowest value that a number or a schedule takes."""
    return min(value.start, value.end) if isinstance(value, Schedule) else value


class FrameLossParams(Section):
    """A loss between teacher and student frame by frame."""

    type: Literal["kl", "logit_mse"] = "kl"
    """Kullback-Leibler divergence with temperature, or mean squared error of the outputs."""
    weight: Scheduled = 1.0
    """Weight inside the teacher's share, or its schedule; 0 switches the term off."""
    temperature: PositiveFloat = 2.0
    """Softens both distributions of `kl`; higher shows more of the unlikely tokens."""
    blank_mode: Literal["all", "nonblank", "symmetric", "trim", "threshold"] = "symmetric"
    """Frames that count: all; the teacher's non-blank ones; these and `dilation` frames beside
    them; from the first of them to the last; or those less blank than `blank_threshold`."""
    dilation: Annotated[int, Field(ge=0)] = 1
    """Frames kept on each side of a non-blank one in blank mode `symmetric`."""
    blank_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """A frame counts in blank mode `threshold` if the teacher's blank is less probable than this;
    larger keeps more."""
    weighting: Literal["uniform", "confidence"] = "uniform"
    """All frames that count do so alike, or by the probability of the teacher's likeliest token."""
    delay_frames: Annotated[int, Field(ge=0, le=100)] = 0
    """Most frames that a student may lag behind its teacher; each utterance takes the delay of the
    lowest loss, for students that stream; every frame more costs another pass over the loss."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> FrameLossParams:
        readers = {
            "temperature": ("type", "kl"),
            "dilation": ("blank_mode", "symmetric"),
            "blank_threshold": ("blank_mode", "threshold"),
        }
        for name, (setting, value) in readers.items():
            found, default = getattr(self, name), type(self).model_fields[name].default
            if found != default and getattr(self, setting) != value:
                raise ValueError(
                    f"{name} is {found:g}, but only {setting} {value!r} reads it, and {setting} "
                    f"is {getattr(self, setting)!r}; remove one of the two"
                )
        return self


class SequenceLossParams(Section):
    """CTC on the teacher's hypotheses."""

    weight: Scheduled = 1.0
    """Weight inside the teacher's share, or its schedule; 0 switches the term off."""
    num_hypotheses: PositiveInt = 1
    """Hypotheses to learn from: 1 is the best path, more are the likeliest texts, each by its
    score; at most cache.payload.num_hypotheses, and every one costs a CTC loss."""
    temperature: PositiveFloat = 1.0
    """Softens the scores of several hypotheses; higher brings their weights closer together."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> SequenceLossParams:
        if self.temperature != 1.0 and self.num_hypotheses == 1:
            raise ValueError(
                f"temperature is {self.temperature:g}, but one hypothesis has no scores to soften; "
                "set num_hypotheses to 2 or more, or remove it"
            )
        return self


class HiddenLossParams(Section):
    """A loss between hidden states of teacher and student, behind learnt projections."""

    layers: dict[str, str] = {}
    """Student layer: teacher layer, `last` being what the output layer reads; the latter stands in
    cache.payload.hidden_layers. None switches the term off."""
    type: Literal["l1_cosine", "mse"] = "l1_cosine"
    """Absolute error plus cosine distance, or mean squared error."""
    weight: Scheduled = 1.0
    """Weight inside the teacher's share, or its schedule; 0 switches the term off."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> HiddenLossParams:
        _refuse_unread(self)
        return self


class IntermediateParams(Section):
    """CTC heads on hidden layers of the student, thrown away after training."""

    layers: tuple[str, ...] = ()
    """Student layers that get a head; none switches the term off."""
    weight: Scheduled = 0.3
    """Weight of the heads' mean loss beside the whole of the output's, or its schedule; 0 switches
    the term off."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> IntermediateParams:
        _refuse_unread(self)
        if repeated := [name for name in self.layers if self.layers.count(name) > 1]:
            raise ValueError(f"layers names {repeated[0]!r} more than once; one head is enough")
        return self


def _refuse_unread(section: HiddenLossParams | IntermediateParams) -> None:
    if section.layers:
        return
    for name, field in type(section).model_fields.items():
        if getattr(section, name) != field.default:
            raise ValueError(f"{name} is set, but layers names none; name some, or remove {name}")


class ObjectiveParams(Section):
    """(1 - share) x CTC(text) + share x (frame + sequence + hidden), and heads with the same."""

    teacher_share: Scheduled = 0.5
    """Lambda, or its schedule: 0 ignores the teacher, 1 needs no transcripts at all."""
    frame: FrameLossParams = FrameLossParams()
    """The frame-wise term."""
    sequence: SequenceLossParams = SequenceLossParams()
    """The sequence-wise term."""
    hidden: HiddenLossParams = HiddenLossParams()
    """The term of hidden states."""
    intermediate: IntermediateParams = IntermediateParams()
    """Heads on hidden layers."""

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher counts at any time."""
        return peak(self.teacher_share) > 0

    @property
    def uses_transcripts(self) -> bool:
        """Whether transcripts count at any time."""
        return lowest(self.teacher_share) < 1

    @property
    def uses_frames(self) -> bool:
        """Whether the frame-wise term counts at any time."""
        return self.uses_teacher and peak(self.frame.weight) > 0

    @property
    def uses_sequence(self) -> bool:
        """Whether the sequence-wise term counts at any time."""
        return self.uses_teacher and peak(self.sequence.weight) > 0

    @property
    def uses_hidden(self) -> bool:
        """Whether the term of hidden states counts at any time."""
        return self.uses_teacher and bool(self.hidden.layers) and peak(self.hidden.weight) > 0

    @property
    def uses_heads(self) -> bool:
        """Whether heads on hidden layers are trained at any time."""
        return bool(self.intermediate.layers) and peak(self.intermediate.weight) > 0

    @model_validator(mode="after")
    def _a_share_is_at_most_one(self) -> ObjectiveParams:
        if (highest := peak(self.teacher_share)) > 1:
            raise ValueError(f"teacher_share reaches {highest:g}, expected 0 to 1")
        return self

    @model_validator(mode="after")
    def _some_term_counts(self) -> ObjectiveParams:
        if not self.uses_teacher or self.uses_frames or self.uses_sequence:
            return self
        if not self.uses_hidden:
            raise ValueError(
                "teacher_share is above 0 but frame.weight and sequence.weight are both 0, and "
                "hidden.layers names none that counts"
            )
        if not self.uses_transcripts:
            raise ValueError(
                "teacher_share is 1 and hidden states alone count, which teach the output layer "
                "nothing; set frame.weight or sequence.weight above 0, or teacher_share below 1"
            )
        return self


class FilterParams(Section):
    """Which training utterances the teacher misheard so grossly that nobody should learn them.

    The defaults drop the worst few only, which is where a filter pays: in Distil-Whisper's ablation
    (Gandhi et al. 2023, table 10) a limit of 80 % gives nearly all that one of 10 % gives.
    """

    enabled: bool = True
    """Whether the teacher's hypotheses are filtered at all."""
    max_wer: NonNegativeFloat = 0.8
    """With a transcript: most word errors against it, as a fraction; larger drops less."""
    min_confidence: Fraction = 0.6
    """Without one: least geometric mean of the best path's probabilities; larger drops more."""
    max_repeats: PositiveInt = 5
    """Without one: how often the same words may stand in a row; larger drops less."""
    min_characters_per_second: NonNegativeFloat = 0.5
    """Without one: least characters, spaces included; above 0, an empty one is dropped."""
    max_characters_per_second: PositiveFloat = 40.0
    """Without one: most characters, spaces included; larger drops less."""
    max_disagreement: NonNegativeFloat | None = None
    """Without one: most character errors of the best path against the best of several hypotheses,
    as a fraction; null does not compare, a number needs cache.payload.num_hypotheses above 1."""

    @model_validator(mode="after")
    def _some_hypothesis_can_pass(self) -> FilterParams:
        low, high = self.min_characters_per_second, self.max_characters_per_second
        if low >= high:
            raise ValueError(
                f"min_characters_per_second {low:g} is not below max_characters_per_second {high:g}"
            )
        return self

    @model_validator(mode="after")
    def _no_threshold_without_a_filter(self) -> FilterParams:
        changed = [
            name
            for name, field in FilterParams.model_fields.items()
            if name != "enabled" and getattr(self, name) != field.default
        ]
        if not self.enabled and changed:
            raise ValueError(
                f"enabled is false, so {', '.join(changed)} would not be read; remove it, or set "
                "enabled to true"
            )
        return self


class NoiseParams(Section):
    """Noise added to whole utterances."""

    probability: Probability = 0.5
    """Share of the utterances that get some, drawn anew in every epoch."""
    snr_db: Annotated[tuple[float, float], AfterValidator(_lowest_first)] = (5.0, 20.0)
    """Least and most decibels of the speech above the noise; lower is louder noise."""
    folder: Folder | None = None
    """Recordings to draw from, with all folders below; null generates coloured noise."""


class GainParams(Section):
    """Loudness of whole utterances."""

    probability: Probability = 0.5
    """Share of the utterances that become louder or softer, drawn anew in every epoch."""
    gain_db: Annotated[tuple[float, float], AfterValidator(_lowest_first)] = (-6.0, 6.0)
    """Least and most decibels; positive is louder."""


class ReverberationParams(Section):
    """Rooms that utterances are heard in."""

    probability: Probability = 0.5
    """Share of the utterances that get a room, drawn anew in every epoch."""
    rt60_seconds: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_lowest_first)] = (
        0.1,
        0.5,
    )
    """Of generated rooms: least and most time in which sound falls by 60 dB; longer smears more."""
    direct_db: Annotated[
        tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_lowest_first)
    ] = (5.0, 15.0)
    """Of generated rooms: least and most decibels of the direct sound above all echoes; near 0 and
    below, what is heard is late by a frame or so."""
    folder: Folder | None = None
    """Impulse responses to draw from, with all folders below; null generates them."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> ReverberationParams:
        for name in ("rt60_seconds", "direct_db"):
            default = type(self).model_fields[name].default
            if self.folder is not None and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is set, but impulse responses come from folder {self.folder!r}; "
                    f"remove {name}, or folder to generate them"
                )
        return self


class CropParams(Section):
    """Stretches cut out of utterances, of which the teacher's frames alone are learnt."""

    probability: Probability = 0.3
    """Share of the utterances that are cut, drawn anew in every epoch; a cut one's transcript and
    hypotheses do not count."""
    kept_fraction: Annotated[
        tuple[PositiveFraction, PositiveFraction], AfterValidator(_lowest_first)
    ] = (0.5, 0.9)
    """Least and most that is kept, as a share of the utterance."""


class ConcatenateParams(Section):
    """Utterances joined two by two."""

    probability: Probability = 0.3
    """Share of the batches whose utterances are joined, drawn anew in every epoch."""


class AugmentationParams(Section):
    """What students and controls hear otherwise than it was recorded; null switches each off.

    Each says what it does to time, and so to the teacher's cached outputs. Masks on features are
    training.specaugment, other speeds cache.speed_factors.
    """

    noise: NoiseParams | None = None
    """Time stays: targets stay valid."""
    gain: GainParams | None = None
    """Time stays: targets stay valid."""
    reverberation: ReverberationParams | None = None
    """Time stays, echoes follow the direct sound: targets stay valid."""
    crop: CropParams | None = None
    """Targets are sliced at whole frames of the student."""
    concatenate: ConcatenateParams | None = None
    """Targets, hypotheses and transcripts are joined."""
    time_warp: Any = None
    """Refused: cached frames would face other audio than they were made from."""

    @model_validator(mode="after")
    def _time_is_not_warped(self) -> AugmentationParams:
        if self.time_warp is not None:
            raise ValueError(
                f"time_warp is {self.time_warp!r}, but time warping moves frames by amounts that "
                "change along an utterance, so cached teacher frames would face other audio than "
                "they were made from; remove it, and set cache.speed_factors (copies with teacher "
                "outputs of their own) or training.specaugment (masks)"
            )
        return self

    @property
    def changes_audio(self) -> bool:
        """Whether features must be made anew in every step."""
        return any(getattr(self, name) is not None for name in type(self).model_fields)


class StudentParams(Section):
    """One named student."""

    architecture: StudentArchitecture
    """The network."""
    objective: ObjectiveParams | None = None
    """Its own objective; null takes distill.objective."""
    features: FeatureParams | None = None
    """What it hears; null takes distill.features."""
    init: Annotated[str, Field(pattern=f"^({INIT_TEACHER}|{REGISTRY_PATTERN})$")] | None = None
    """First weights: null draws random ones; `teacher` takes evenly spaced layers of a teacher of
    the same architecture, and its control starts from random ones; models:/NAME@ALIAS or
    models:/NAME/VERSION goes on from a registered student, and so does its control."""

    @property
    def registered_init(self) -> str | None:
        """The registered student that this one and its control go on from, if there is one."""
        return self.init if (self.init or "").startswith(INIT_REGISTRY) else None


class DistillParams(Section):
    """Settings of the stage `distill`."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Each student and its control are trained once from each; several show the spread."""
    objective: ObjectiveParams = ObjectiveParams()
    """What students are trained towards."""
    filter: FilterParams = FilterParams()
    """Which of the teacher's hypotheses are fit to learn from."""
    features: FeatureParams = FeatureParams(num_mels=40)
    """What students hear."""
    augmentation: AugmentationParams = AugmentationParams()
    """How what they hear is changed in every step."""
    training: TrainingParams = TrainingParams()
    """How students are trained."""
    generations: PositiveInt = 1
    """1 learns from the teacher alone; with more, the same student is trained anew so often, each
    generation from the outputs of the one before, and the last one is kept."""
    control: bool = True
    """Also train each student without the teacher, same seed and steps, to measure the gain."""
    students: Annotated[dict[StudentName, StudentParams], Field(min_length=1)]
    """The students by name."""

    @model_validator(mode="after")
    def _every_seed_once(self) -> DistillParams:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} hold one twice; name each once")
        return self

    @model_validator(mode="after")
    def _seeds_stand_in_one_place(self) -> DistillParams:
        seed = self.training.seed
        if seed != TrainingParams.model_fields["seed"].default:
            raise ValueError(
                f"training.seed is {seed}, but students take their seeds from distill.seeds; "
                f"remove it and set seeds to [{seed}]"
            )
        return self

    @model_validator(mode="after")
    def _streams_hear_no_future(self) -> DistillParams:
        for name, student in self.students.items():
            normalise = self.features_of(name).normalise
            if student.architecture.type == "causal_conv" and normalise != "running":
                raise ValueError(
                    f"students.{name}: causal_conv streams, but features.normalise is "
                    f"{normalise!r}, which reads the whole utterance first; give the student "
                    "features: {normalise: running}"
                )
        return self

    @model_validator(mode="after")
    def _crops_have_frames_to_learn(self) -> DistillParams:
        for name in self.students if self.augmentation.crop else ():
            objective = self.objective_of(name)
            if not (objective.uses_frames or objective.uses_hidden):
                raise ValueError(
                    f"augmentation.crop is set, but students.{name} learns neither frames nor "
                    "hidden states of the teacher, and texts are not valid for a part of an "
                    "utterance; remove crop, or give the student frame.weight above 0 or "
                    "hidden.layers"
                )
        return self

    @model_validator(mode="after")
    def _some_student_has_a_teacher(self) -> DistillParams:
        learning = any(self.objective_of(name).uses_teacher for name in self.students)
        if self.generations > 1 and not learning:
            raise ValueError(
                f"generations is {self.generations}, but no student learns from a teacher: every "
                "teacher_share is 0; raise one, or set generations to 1"
            )
        return self

    def for_seed(self, seed: int) -> DistillParams:
        """Return the settings of one of the seeds, as training reads them."""
        training = self.training.model_copy(update={"seed": seed})
        return self.model_copy(update={"seeds": (seed,), "training": training})

    def objective_of(self, student: str) -> ObjectiveParams:
        """Return the objective of one student: its own, or the common one."""
        return self.students[student].objective or self.objective

    def features_of(self, student: str) -> FeatureParams:
        """Return what one student hears: its own features, or the common ones."""
        return self.students[student].features or self.features


class EvaluateParams(Section):
    """Settings of the stage `evaluate`."""

    num_resamples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples; more makes the interval's ends steadier."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the intervals."""
    speed_seconds: PositiveFloat = 10.0
    """Length of the recording on which the real-time factor is measured, in seconds."""
    speed_repeats: PositiveInt = 10
    """Timed passes per model, after a warm-up; the median counts."""
    stream_chunk_seconds: PositiveFloat = 0.32
    """Audio that a streaming student hears at once, in seconds; shorter costs more computing."""


class GateParams(Section):
    """What a new student must show, in every form of it, before it becomes champion.

    Rates of errors and their differences are fractions: 0.01 is one point of WER.
    """

    enabled: bool = True
    """Whether it is judged at all; without, every newly registered student becomes champion."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Coverage of the one-sided intervals; more asks for clearer proof."""
    wer_margin: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.01
    """How much worse than the champion it may be at the far end of that interval, itself no worse;
    larger lets smaller test splits decide, below 0 it must be better by as much."""
    min_utterances: Annotated[int, Field(ge=0)] = 20
    """Test utterances below which no champion is replaced: an interval over a few is too narrow,
    over one it has no width; 0 lets any number decide."""
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
    """How many times the champion's real-time factor it may have; null sets no limit."""


class ServeLimits(Section):
    """What one request to `make serve` may hold; more is refused with a reason."""

    max_seconds: PositiveFloat = 120.0
    """Audio of all its recordings together, in seconds; more takes longer and needs more memory."""
    max_bytes: PositiveInt = 16_000_000
    """Bytes of all its recordings together, as files."""


class RegisterParams(Section):
    """Settings of the stage `register`."""

    experiment: Annotated[str, Field(min_length=1)] = "distillery"
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
    gate: GateParams = GateParams()
    """What decides who becomes champion."""
    serve_limits: ServeLimits = ServeLimits()
    """How much one request may hold; new versions keep it, and `make serve` takes what stands."""


class CurveParams(Section):
    """Settings of `make curve`, which is no stage: WER against the amount of training data."""

    fractions: Annotated[
        tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)
    ] = (0.1, 0.25, 0.5, 1.0)
    """Shares of the training audio to train on; each costs as much as all of it."""
    students: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Which students are drawn, names under distill.students; null takes all."""

    @model_validator(mode="after")
    def _everything_once(self) -> CurveParams:
        for name, values in (("fractions", self.fractions), ("students", self.students or ())):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} hold one twice; name each once")
        return self


class LanguageModelParams(Section):
    """An n-gram model of the training transcripts, which beam search can use in place of the best
    path; words that stand in no training transcript cannot then be written."""

    for_teacher: bool = False
    """Whether the teacher's texts, which `sequence` learns from, are decoded with it."""
    for_students: bool = False
    """Whether `evaluate` measures students and controls with it, too."""
    order: Annotated[int, Field(ge=2, le=5)] = 3
    """Words in its longest n-grams; more knows longer phrases and needs more transcripts."""
    beam_size: PositiveInt = 20
    """Beams of the search; more find better texts and take longer."""
    beam_threshold: PositiveFloat = 10.0
    """Nats below the best at which a beam is given up; larger searches more and takes longer."""
    weights: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
        1.5,
    )
    """How much the model counts against the audio: the best on the validation split is taken;
    larger trusts it more, 0 uses its words alone."""
    word_scores: Annotated[
        tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1)
    ] = (0.0, 1.0, 2.0, 3.0)
    """What each word adds, in nats: the best is taken; larger makes up for short texts."""

    @property
    def is_used(self) -> bool:
        """Whether anything is decoded with it."""
        return self.for_teacher or self.for_students


class PilotParams(Section):
    """The short distillation by which `make teachers` ranks teachers."""

    student: StudentName | None = None
    """Which student learns, a name under distill.students; null takes the first."""
    fraction: PositiveFraction = 1.0
    """Share of the training audio that it learns from, and that teachers have to hear; less is
    quicker and says less."""
    num_epochs: PositiveInt = 15
    """Passes over that share; more is nearer to what a whole training gains."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Student and control are trained once from each; several tell luck from gain."""


class TeacherCandidatesParams(Section):
    """Settings of `make teachers`, which is no stage: teachers compared before one is chosen."""

    teachers: dict[StudentName, TeacherParams] = {}
    """By name, what would stand under teacher:; the configured teacher is always one of them."""
    pilot: PilotParams = PilotParams()
    """The distillation that ranks them."""

    @model_validator(mode="after")
    def _the_configured_one_has_its_name(self) -> TeacherCandidatesParams:
        if CONFIGURED in self.teachers:
            raise ValueError(
                f"teachers: {CONFIGURED!r} is what the configured teacher is called, which is a "
                "candidate by itself; choose another name"
            )
        return self


class RetrainingParams(Section):
    """Settings of `make retrain` and `make schedule`, which are no stage."""

    cron: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] = "0 3 * * *"
    """When `make schedule` retrains: minute, hour, day of month, month, day of week."""
    timezone: Annotated[str, AfterValidator(_known_timezone)] = "UTC"
    """Whose clock `cron` means; outside UTC one hour of the year comes twice and one never."""
    force: bool = False
    """Whether to run although nothing is new: aliases are followed, and the results registered."""
    pull: bool = True
    """Whether to get from DVC's remote what dvc.lock names and the workspace lacks."""
    push: bool = True
    """Whether to send new data, cache and models to DVC's remote."""
    commit: bool = False
    """Whether to commit dvc.lock to Git, and nothing else, after a run that changed it."""
    timeout_hours: PositiveFloat = 24.0
    """A run that takes longer is stopped; the next goes on with what is done."""
    transfer_timeout_minutes: PositiveFloat = 60.0
    """One pull or push that takes longer is stopped and counts as failed."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a failed pull or push is tried again; a failed stage never is."""
    retry_delay_seconds: NonNegativeFloat = 30.0
    """Wait before each such retry, in seconds."""


# pydantic's metaclass has a method of the name that our last stage bears.
warnings.filterwarnings("ignore", 'Field name "register" in "Params" shadows')


class Params(Section):
    """The whole of params.yaml."""

    prepare: PrepareParams
    teacher: TeacherParams = TrainedTeacherParams()
    cache: CacheParams = CacheParams()
    distill: DistillParams
    evaluate: EvaluateParams = EvaluateParams()
    register: RegisterParams = RegisterParams()
    curve: CurveParams = CurveParams()
    language_model: LanguageModelParams = LanguageModelParams()
    teacher_candidates: TeacherCandidatesParams = TeacherCandidatesParams()
    retraining: RetrainingParams = RetrainingParams()

    @property
    def curve_students(self) -> list[str]:
        """The students whose curves `make curve` draws."""
        return list(self.curve.students or self.distill.students)

    @property
    def pilot_student(self) -> str:
        """The student that ranks teachers in `make teachers`."""
        return self.teacher_candidates.pilot.student or next(iter(self.distill.students))

    @property
    def all_candidates(self) -> dict[str, TeacherParams]:
        """The teachers that `make teachers` compares: the configured one, then its candidates.

        A candidate with the settings of the configured one takes its place.
        """
        named = self.teacher_candidates.teachers
        if any(self.is_configured(settings) for settings in named.values()):
            return dict(named)
        return {CONFIGURED: self.teacher, **named}

    def is_configured(self, teacher: TeacherParams) -> bool:
        """Return whether these settings make the teacher that the stage `teacher` makes."""
        own, theirs = (item.model_dump(exclude={"allow_poor"}) for item in (self.teacher, teacher))
        return own == theirs

    @model_validator(mode="after")
    def _curves_of_known_students(self) -> Params:
        known = list(self.distill.students)
        if unknown := [name for name in self.curve_students if name not in known]:
            raise ValueError(
                f"curve.students: {unknown[0]!r} is no student, expected some of {known}; correct "
                "it, or add it to distill.students"
            )
        return self

    @model_validator(mode="after")
    def _pilots_learn(self) -> Params:
        name, known = self.pilot_student, list(self.distill.students)
        if name not in known:
            raise ValueError(
                f"teacher_candidates.pilot.student: {name!r} is no student, expected one of "
                f"{known}; correct it, or add it to distill.students"
            )
        named = self.teacher_candidates.teachers
        if named and not self.distill.objective_of(name).uses_teacher:
            raise ValueError(
                f"teacher_candidates.pilot.student: {name!r} ignores its teacher, for its "
                "teacher_share is 0, so it cannot rank teachers; name another student"
            )
        return self

    @model_validator(mode="after")
    def _decodings_to_compare(self) -> Params:
        limit = self.distill.filter.max_disagreement
        if limit is not None and self.cache.payload.num_hypotheses == 1:
            raise ValueError(
                f"distill.filter.max_disagreement is {limit:g}, but the cache keeps one decoding; "
                "set cache.payload.num_hypotheses to 2 or more, or max_disagreement to null"
            )
        return self

    @model_validator(mode="after")
    def _decodings_that_can_disagree(self) -> Params:
        if self.distill.filter.max_disagreement is not None and self.language_model.for_teacher:
            raise ValueError(
                "distill.filter.max_disagreement compares the best path with the best of several "
                "hypotheses, but with language_model.for_teacher both are what the language model "
                "chose; set one of them to null or false"
            )
        return self

    @model_validator(mode="after")
    def _some_student_streams(self) -> Params:
        chunk = self.evaluate.stream_chunk_seconds
        default = EvaluateParams.model_fields["stream_chunk_seconds"].default
        types = [student.architecture.type for student in self.distill.students.values()]
        if chunk != default and "causal_conv" not in types:
            raise ValueError(
                f"evaluate.stream_chunk_seconds is {chunk:g}, but no student streams; remove it, "
                "or add a student of architecture causal_conv"
            )
        return self

    @model_validator(mode="after")
    def _teachers_layers_fit(self) -> Params:
        for name, student in self.distill.students.items():
            if student.init != INIT_TEACHER or self.teacher.kind != "trained":
                continue
            own, theirs = student.architecture.type, self.teacher.architecture.type
            if own != theirs:
                raise ValueError(
                    f"distill.students.{name}: init is {INIT_TEACHER!r}, but the student is a "
                    f"{own} and the teacher a {theirs}; give both one architecture, or remove init"
                )
            if self.distill.features_of(name) != self.teacher.features:
                raise ValueError(
                    f"distill.students.{name}: init is {INIT_TEACHER!r}, but the student's "
                    "features differ from the teacher's; copy teacher.features into the student's "
                    "features, or remove init"
                )
        return self

    @model_validator(mode="after")
    def _rates_fit(self) -> Params:
        if not isinstance(self.teacher, TrainedTeacherParams):
            return self  # training compares with the cache
        teacher_shift = self.teacher.features.hop_seconds * self.teacher.architecture.time_reduction
        for name, student in self.distill.students.items():
            shift = self.distill.features_of(name).hop_seconds * student.architecture.time_reduction
            ratio = shift / teacher_shift
            objective = self.distill.objective_of(name)
            faces_frames = objective.uses_frames or objective.uses_hidden
            if faces_frames and (ratio < 1 - 1e-6 or abs(ratio - round(ratio)) > 1e-6):
                raise ValueError(
                    f"distill.students.{name}: one frame per {shift * 1000:g} ms is no whole "
                    f"multiple of the teacher's {teacher_shift * 1000:g} ms; losses by frame need "
                    "one. Change time_reduction, or set frame.weight and hidden.weight to 0"
                )
        return self

    @model_validator(mode="after")
    def _the_cache_keeps_what_students_learn(self) -> Params:
        payload = self.cache.payload
        for name in self.distill.students:
            objective = self.distill.objective_of(name)
            wanted = objective.sequence.num_hypotheses
            if objective.uses_sequence and wanted > payload.num_hypotheses:
                raise ValueError(
                    f"distill.students.{name}: learns from {wanted} hypotheses, the cache keeps "
                    f"{payload.num_hypotheses}; set cache.payload.num_hypotheses to {wanted} or "
                    "more, or sequence.num_hypotheses to less"
                )
            if objective.uses_frames and payload.log_probs == "none":
                raise ValueError(
                    f"distill.students.{name}: learns frames of the teacher, but "
                    "cache.payload.log_probs is 'none'; set it to auto, or frame.weight to 0"
                )
            for layer in objective.hidden.layers.values() if objective.uses_hidden else ():
                if layer not in payload.hidden_layers:
                    kept = [*payload.hidden_layers, layer]
                    raise ValueError(
                        f"distill.students.{name}: learns hidden layer {layer!r} of the teacher, "
                        f"which the cache does not keep; set cache.payload.hidden_layers to "
                        f"[{', '.join(kept)}], or remove it from hidden.layers"
                    )
        return self


def load(path: Path) -> Params:
    """Read params.yaml.

    Raises:
        ParamsError: the file is missing or no YAML mapping, a URL in it holds a password, or keys
            are unknown, of the wrong type or out of range; the message lists all of them with
            their paths.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if line := line_with_credentials(text):  # before anything could quote it
            raise ParamsError(
                f"{path}, line {line}: a URL holds a user, password or key, which would stand in "
                f"Git and in every run's artifacts; {WHERE_PASSWORDS_GO}"
            )
        raw = yaml.safe_load(text)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; copy one from examples/") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: holds {type(raw).__name__}, expected sections such as prepare:")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in _explain(error))
        raise ParamsError(
            f"{path}: {error.error_count()} setting(s) cannot be used; "
            f"correct these and run again\n{lines}"
        ) from None


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"] if part not in _UNION_TAGS)
        if item["type"] == "extra_forbidden":
            line = f"{path}: unknown setting{_suggestion(item['loc'])}"
        elif item["type"] == "missing":
            line = f"{path}: missing, and has no default"
        else:
            message = re.sub(r"^Value error, ", "", item["msg"])
            found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
            line = f"{path}: {message}{found}" if path else message
        lines.append(line)
    return lines


def _suggestion(location: tuple[Any, ...]) -> str:
    known = set(Params.model_fields)
    sections = [Section]
    for section in sections:
        sections.extend(section.__subclasses__())
        known.update(section.model_fields)
    known.discard(str(location[-1]))  # it is known elsewhere
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


_UNION_TAGS = {
    NUMBER_TAG,
    SCHEDULE_TAG,
    "conv_bilstm",
    "conformer",
    "separable_conv",
    "causal_conv",
    "crnn",
    "trained",
    "registry",
    "torchaudio",
    "transformers",
    "onnx",
    "fine_tuned",
    "single",
    "ensemble",
}
