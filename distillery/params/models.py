"""What teachers and students are built of: features, and one form for each architecture.

The order of the fields is that of a saved model's config.json.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distillery.params.base import NonNegativeInt, PositiveFloat, PositiveInt, Section

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]
TimeReduction = Literal[2, 4, 8]
LOG_MEL: Literal["log_mel"] = "log_mel"
KALDI_FBANK: Literal["kaldi_fbank"] = "kaldi_fbank"


def _refuse_even(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size {kernel_size} is even; an odd one is needed")


def _is_log_mel(kind: str) -> bool:
    return kind == LOG_MEL


class FeatureParams(Section):
    """Log-mel filter-bank features."""

    # Models from before there were two types keep their bytes, and so their digests.
    type: Annotated[Literal["log_mel", "kaldi_fbank"], Field(exclude_if=_is_log_mel)] = LOG_MEL
    """`log_mel` as torchaudio computes them; `kaldi_fbank` as Kaldi and sherpa-onnx do, for models
    that are to run there: see `make export`."""
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
    dropout: Dropout = 0.2
    """Dropout between layers."""
    time_reduction: TimeReduction = 4
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
    kernel_size: Annotated[int, Field(ge=3)] = 15
    """Frames that the depthwise convolution sees; odd."""
    dropout: Dropout = 0.1
    """Dropout in every block."""
    time_reduction: TimeReduction = 4
    """Feature frames per output frame."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> ConformerParams:
        if self.model_size % self.num_heads:
            raise ValueError(
                f"model_size {self.model_size} is not a multiple of num_heads {self.num_heads}"
            )
        _refuse_even(self.kernel_size)
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
    dropout: Dropout = 0.1
    """Dropout after each block."""
    time_reduction: TimeReduction = 4
    """Feature frames per output frame."""

    @model_validator(mode="after")
    def _odd(self) -> SeparableConvParams:
        _refuse_even(self.kernel_size)
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
    lookahead_frames: NonNegativeInt = 0
    """Output frames that the network waits for after each one; more helps accuracy and adds as many
    frames of latency."""
    dropout: Dropout = 0.1
    """Dropout after each block."""
    time_reduction: TimeReduction = 4
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
    dropout: Dropout = 0.1
    """Dropout between layers."""
    time_reduction: TimeReduction = 4
    """Feature frames per output frame."""


class CharacterTokens(Section):
    """A token for each character of the corpus."""

    type: Literal["characters"] = "characters"


class SubwordTokens(Section):
    """Pieces of words, by SentencePiece's unigram model."""

    type: Literal["subwords"]
    size: Annotated[int, Field(ge=16, le=10_000)] = 256
    """Tokens, the blank among them; more need fewer frames a text and more text to learn from.
    Fewer are made where texts hold fewer pieces."""


class TeacherTokens(Section):
    """What the teacher writes in: pieces of words where a recogniser that others trained does, or
    characters. Students that write in the same can learn what it says frame by frame."""

    type: Literal["teacher"]


TeacherArchitecture = Annotated[ConvBiLSTMParams | ConformerParams, Field(discriminator="type")]
StudentArchitecture = Annotated[
    SeparableConvParams | CausalConvParams | CRNNParams | ConformerParams | ConvBiLSTMParams,
    Field(discriminator="type"),
]
StudentTokens = Annotated[
    CharacterTokens | SubwordTokens | TeacherTokens, Field(discriminator="type")
]
"""What a student writes its texts in."""
