"""Prepared data: manifest.parquet and the packed audio it points into.

A prepared folder holds

    manifest.parquet   one row per utterance, columns as in COLUMNS, sorted by utterance_id
    audio-00000.pcm    little-endian int16 samples of many utterances, one after another
    dropped.csv        what was left out: utterance_id, source_path, reason, detail
    summary.json       counts, hours, the text rule, the alphabet, the unit, the sample rate
    profile.json       how long, loud, clipped and fast the utterances are (prepare/profile.py)
    segments.csv       where utterances that prepare.segment cut stand (corpora/spans.py)
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from distillery.data.audio import SAMPLE_SCALE
from distillery.data.spelling import AUTO, SpellingRule, settle
from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.errors import CorpusError, ManifestError
from distillery.files import Json, map_file, read_json

MANIFEST_FILE = "manifest.parquet"
SUMMARY_FILE = "summary.json"
DROPPED_FILE = "dropped.csv"
AUDIO_SUFFIX = ".pcm"
SPLITS = ("train", "valid", "test")
SETTLING = ("train", "valid")
"""Whose transcripts say how numbers and letters are spelt."""
COLUMNS = (
    "utterance_id",
    "speaker",  # null where unknown
    "split",  # train, valid or test
    "text",  # normalised; null = unlabelled
    "text_original",  # as published; null = unlabelled
    "source_path",  # relative to the corpus
    "shard",  # index of the audio file
    "offset_samples",  # first sample in the shard
    "num_samples",
    "duration_seconds",
    "audio_key",  # sha256 of the int16 samples
    "level_dbfs",  # RMS in decibels below full scale
    "clipped_fraction",  # share of the samples at either end of their range
    "dc_offset",  # mean of the samples, full scale being 1
    "silent_fraction",  # share of the frames of 20 ms below -65 dB
)
LEVELS = COLUMNS[-4:]
"""Columns that manifests of old do not have, and no model is made from."""
ORIGINS = ("text_original", "source_path", *LEVELS)
"""What models are not judged by."""
DESCRIPTIONS = ("speaker", *ORIGINS)
"""What students do not learn from."""
EXPECTED = "expected"
"""A column that is there only where the corpus has it: phrases that must stand in the text,
normalised, `; ` between them; null where none are known."""
SAMPLE_DTYPE = np.dtype("<i2")


@dataclass(frozen=True)
class SplitCounts:
    """How much one split holds."""

    num_utterances: int
    num_labelled: int
    """With a transcript."""
    num_unlabelled: int
    num_speakers: int
    """That are known by name."""
    hours: float


@dataclass(frozen=True)
class SegmentCounts:
    """What became of long recordings that were cut."""

    num_recordings: int
    num_utterances: int
    num_without_pause: int
    """Utterances that end inside speech, for there was no pause in time."""
    hours: float
    """Of the recordings."""
    seconds_left_out: Mapping[str, float]
    """By reason."""


@dataclass(frozen=True)
class Summary:
    """What summary.json says of prepared data."""

    corpus: str
    """As the settings name it."""
    sample_rate_hz: int
    """Of the packed audio."""
    text_rule: str
    """How transcripts were normalised, in words."""
    alphabet: str
    """Characters of the texts that models train and validate on, without the space."""
    split_rule: Mapping[str, str]
    """How validation and test were chosen: official, by speaker or by utterance."""
    splits: Mapping[str, SplitCounts]
    """By the splits' names."""
    num_hidden_transcripts: int
    """Training transcripts that `prepare.labelled_fraction` took away."""
    dropped: Mapping[str, int]
    """Utterances left out, by reason."""
    unit: Unit = Unit.WORD
    """What errors are counted in; in summary.json only where it is not the word."""
    spelling: SpellingRule | None = None
    """How numbers and letter strings were made words; in summary.json only where settings say how,
    or it changed a transcript. None: as transcripts write them, see `PreparedData.spelling`."""
    segments: SegmentCounts | None = None
    """Of long recordings; in summary.json only where some were cut."""
    language: str | None = None
    """What texts are written in, as `prepare.language` says; in summary.json only where it does."""

    @property
    def entries(self) -> Json:
        """What summary.json holds."""
        entries = asdict(self)
        if self.unit is Unit.WORD:
            del entries["unit"]
        if self.spelling is None:
            del entries["spelling"]
        if self.segments is None:
            del entries["segments"]
        if self.language is None:
            del entries["language"]
        return entries


def shard_name(shard: int) -> str:
    """Return the file name of one packed audio shard."""
    return f"audio-{shard:05d}{AUDIO_SUFFIX}"


def audio_key(samples: np.ndarray) -> str:
    """Return the content key of a recording: the SHA-256 of its little-endian int16 samples."""
    return hashlib.sha256(np.ascontiguousarray(samples, dtype=SAMPLE_DTYPE).data).hexdigest()


@dataclass
class PreparedData:
    """A prepared folder, opened for reading; audio stays on disk until it is asked for."""

    folder: Path
    frame: pd.DataFrame
    summary: Summary
    _maps: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    teacher_texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the teacher wrote of validation and test, by audio key: the truth where there is no
    other. Empty until `distillery.data.judged` knows them, and where nobody needs them."""

    @classmethod
    def open(cls, folder: Path, *, without: Collection[str] = ()) -> Self:
        """Open a prepared folder and check its manifest.

        Args:
            folder: the prepared folder.
            without: columns that are not wanted; those of DESCRIPTIONS are half of the memory.

        Raises:
            ManifestError: a file or column is missing, the summary is damaged, ids repeat, a
                split's name is unknown, or a row points outside its shard.
        """
        path = folder / MANIFEST_FILE
        if not path.exists() or not (folder / SUMMARY_FILE).exists():
            raise ManifestError(f"{folder}: holds no prepared data; run make prepare")
        found = pq.read_schema(path).names
        wanted = [name for name in found if name not in without]
        data = cls(folder, pd.read_parquet(path, columns=wanted), _read_summary(folder))
        data._check(found)
        data._check_audio()
        pa.default_memory_pool().release_unused()  # reading took as much again
        return data

    @classmethod
    def with_rows(cls, folder: Path, rows: pd.DataFrame) -> Self:
        """Open a prepared folder for some utterances alone: its manifest is not read.

        Args:
            folder: the prepared folder.
            rows: of its manifest; where their samples lie is all that they need to say.

        Raises:
            ManifestError: the summary is missing or damaged, or a row points outside its shard.
        """
        if not (folder / SUMMARY_FILE).exists():
            raise ManifestError(f"{folder}: holds no prepared data; run make prepare")
        data = cls(folder, rows, _read_summary(folder))
        data._check_audio()
        return data

    def _check(self, columns: Iterable[str]) -> None:
        path = self.folder / MANIFEST_FILE
        if missing := [name for name in COLUMNS if name not in (*columns, *LEVELS)]:
            raise ManifestError(f"{path}: columns {missing} are missing; run make prepare again")
        ids = self.frame["utterance_id"]
        if not ids.is_unique:
            first = ids[ids.duplicated()].iloc[0]
            raise ManifestError(f"{path}: utterance {first!r} occurs twice; run make prepare again")
        if unknown := set(self.frame["split"]) - set(SPLITS):
            raise ManifestError(f"{path}: splits {sorted(unknown)}, expected {list(SPLITS)}")

    def _check_audio(self) -> None:
        ends = (self.frame["offset_samples"] + self.frame["num_samples"]).groupby(
            self.frame["shard"]
        )
        for shard, end in ends.max().items():
            audio = self.folder / shard_name(int(str(shard)))
            held = audio.stat().st_size // SAMPLE_DTYPE.itemsize if audio.exists() else 0
            if held < end:
                raise ManifestError(
                    f"{audio}: holds {held} samples, the manifest points at {end}; "
                    "run make prepare again"
                )

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the packed audio in hertz."""
        return self.summary.sample_rate_hz

    @property
    def unit(self) -> Unit:
        """What errors are counted in."""
        return self.summary.unit

    def unit_of(self, split: str) -> Unit:
        """Return what errors are counted in where models are judged on a split.

        Words or characters where it is transcribed; else expected phrases, or what the teacher
        wrote.
        """
        return self._truth(split, ("text", EXPECTED, "audio_key"))[1]

    def references(self, split: str) -> pd.DataFrame:
        """Return the utterances of a split that models can be judged on, in manifest order.

        Column `text` holds the truth: transcripts, or expected phrases where more utterances have
        these than transcripts, or the teacher's texts where there is neither.
        """
        return self._truth(split)[0]

    def _truth(self, split: str, columns: Iterable[str] | None = None) -> tuple[pd.DataFrame, Unit]:
        rows = self.split(split, columns)
        written, unit = rows["text"].notna(), self.unit
        has_phrases = rows[EXPECTED].notna() if EXPECTED in rows else written & False
        if has_phrases.sum() > written.sum():
            rows, written, unit = rows.assign(text=rows[EXPECTED]), has_phrases, Unit.PHRASE
        elif not written.any() and self.teacher_texts and split != "train":
            said = rows["audio_key"].map(self.teacher_texts)
            rows, written, unit = rows.assign(text=said), said.notna(), self.unit.vs_teacher
        # No copy where all are: a split may be most of the memory.
        return rows if written.all() else rows[written].reset_index(drop=True), unit

    def lacks_truth(self, split: str) -> bool:
        """Return whether only the teacher's texts could say what a split holds."""
        rows = self.split(split, ("text", EXPECTED))
        return not rows["text"].notna().any() and not (
            EXPECTED in rows and rows[EXPECTED].notna().any()
        )

    @property
    def unit_if_unusual(self) -> list[str]:
        """What digests hold of the unit: nothing of words, so that they are what they were.

        Where validation is judged by something else than transcripts, that stands there, too.
        """
        rows, judged_in = self._truth("valid", ("text", EXPECTED, "audio_key"))
        named = [] if self.unit is Unit.WORD else [self.unit.value]
        return named if judged_in is self.unit else [*named, judged_in.value, *rows["text"]]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The token table of the corpus."""
        return Vocabulary.from_alphabet(self.summary.alphabet)

    @cached_property
    def spelling(self) -> SpellingRule:
        """How a teacher's numbers and letter strings become words, as in the transcripts."""
        if self.summary.spelling is not None:
            return self.summary.spelling
        told = self.frame[self.frame["split"].isin(SETTLING)]["text_original"].dropna()
        return settle(AUTO, AUTO, None, self.summary.alphabet, told, self.summary.language)

    def split(self, name: str, columns: Iterable[str] | None = None) -> pd.DataFrame:
        """Return the rows of one split, in manifest order, index reset.

        Args:
            name: of the split.
            columns: those that are wanted, as far as they are there; None: all.
        """
        frame = self.frame
        if columns is not None:
            frame = frame[[column for column in columns if column in frame]]
        return frame[self.frame["split"] == name].reset_index(drop=True)

    def samples(self, row: Any) -> np.ndarray:
        """Return one utterance's int16 samples `(samples,)`, a read-only view of the disk.

        Args:
            row: anything with the attributes `shard`, `offset_samples` and `num_samples`, such as
                a tuple of `DataFrame.itertuples()`.
        """
        shard, start = int(row.shard), int(row.offset_samples)
        mapped = self._maps.get(shard)
        if mapped is None:
            mapped = np.frombuffer(map_file(self.folder / shard_name(shard)), SAMPLE_DTYPE)
            self._maps[shard] = mapped
        return mapped[start : start + int(row.num_samples)]

    def unmap(self) -> None:
        """Let go of the audio that was read: until then its pages count as this process's memory.

        What is asked for again is mapped again; other threads may be reading.
        """
        self._maps.clear()

    def waveform(self, row: Any) -> np.ndarray:
        """Return one utterance as float32 in [-1, 1) `(samples,)`."""
        return self.samples(row).astype(np.float32) / np.float32(SAMPLE_SCALE)


def _read_summary(folder: Path) -> Summary:
    path = folder / SUMMARY_FILE
    try:
        return read_json(path, Summary)
    except ValueError as error:
        raise ManifestError(f"{path}: cannot be used: {error}; run make prepare again") from None


def labelled(data: PreparedData, split: str) -> pd.DataFrame:
    """Return the transcribed utterances of a split; of validation and test `references`.

    Raises:
        CorpusError: there is none.
    """
    rows = data.split(split)
    transcribed = rows[rows["text"].notna()].reset_index(drop=True)
    rows = transcribed if split == "train" else data.references(split)
    if rows.empty:
        raise CorpusError(
            f"split {split!r}: holds no transcribed utterance, at least one is needed; "
            "add transcripts to the corpus"
        )
    return rows
