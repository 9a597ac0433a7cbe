"""The section `prepare`: which corpus, and what becomes of its recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from distillery.params.base import (
    Fraction,
    NonEmptyText,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    SampleRate,
    Section,
)


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
    source: NonEmptyText
    """The corpus folder; for `commands`, the grammar file."""
    manifest: str = "manifest.csv"
    """For corpus `manifest`: its file name inside the source folder (CSV, TSV, JSONL, Parquet)."""
    download: bool = False
    """Whether a missing public corpus may be downloaded into the source folder."""
    sample_rate_hz: SampleRate = 16000
    """Rate of the prepared audio in hertz; keep 8 kHz recordings at 8000."""
    case: Literal["lower", "upper", "keep"] = "lower"
    """What the normaliser does with letter case."""
    alphabet: str | None = "abcdefghijklmnopqrstuvwxyz'"
    """Characters that transcripts may hold, space aside; null takes those of the training texts."""
    valid_fraction: Fraction = 0.1
    """Share of the training speakers (of utterances, where speakers are unknown or there is one)
    that validate, at least one of them; what was decided stays decided as data grow."""
    test_fraction: Fraction = 0.1
    """The same for test, used only where the corpus has no official test split."""
    labelled_fraction: PositiveFraction = 1.0
    """Share of the training utterances that keep their transcripts, chosen by hash of the audio;
    the others count as unlabelled, which shows what students gain from such audio."""
    min_duration_seconds: NonNegativeFloat = 0.1
    """Shorter recordings are dropped."""
    max_duration_seconds: PositiveFloat = 30.0
    """Longer recordings are dropped."""
    min_level_db: Annotated[float, Field(ge=-100.0, le=0.0)] = -65.0
    """Recordings of a lower level (RMS around the mean, decibels to full scale) hold no speech and
    are dropped; −100 keeps all. The quietest of 4,906 real ones has −53.4: docs/measurements.md."""
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
