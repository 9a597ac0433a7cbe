"""The section `prepare`: which corpus, and what becomes of its recordings."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from distillery.data import text
from distillery.data.languages import plain
from distillery.params.alphabets import BEYOND_LATIN, alphabet_of
from distillery.params.base import (
    Fraction,
    NonEmptyText,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
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


class SpellingParams(Section):
    """How numbers and letter strings become words, in transcripts and the teacher's texts."""

    numbers: Literal["auto", "cardinals", "digits", "keep"] = "auto"
    """`2611` is said as a number, figure by figure, or stays; `auto` goes by the transcripts, and
    takes cardinals where there are none. Ordinals, dates, times, money, percent and decimals are
    said as such under both, digits that count nothing figure by figure."""
    letters: Literal["auto", "spell", "keep"] = "auto"
    """`XKITB` is said letter by letter or stays; `auto` goes by the transcripts, and spells where
    there are none."""
    language: NonEmptyText | None = None
    """Whose words, such as en, nl or pt_BR; null: those of prepare.language; without that English
    where texts may hold no letters but a–z, else numbers stay."""


class SegmentParams(Section):
    """How long recordings without a transcript become utterances."""

    max_seconds: Annotated[float, Field(ge=1.0)] = 20.0
    """Longer recordings are cut, into utterances of at most this length."""
    min_silence: Annotated[float, Field(ge=0.1)] = 0.5
    """Pauses of this many seconds always part two utterances; shorter ones do where an utterance
    would be too long. Smaller makes more and shorter ones."""


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
    transcripts: NonEmptyText | None = None
    """A table inside the source folder whose transcripts stand in for the corpus's own or fill
    gaps, such as what `make select` wrote once it is filled in; labelled_fraction hides none."""
    download: bool = False
    """Whether a missing public corpus may be downloaded into the source folder."""
    sample_rate_hz: SampleRate = 16000
    """Rate of the prepared audio in hertz; keep 8 kHz recordings at 8000."""
    channel: Literal["mix"] | NonNegativeInt = "mix"
    """Which channel is taken of recordings that have several, counted from 0; `mix` averages them
    all. Channels that cancel, or hold two talkers, are told and listed in channels.csv."""
    case: Literal["lower", "upper", "keep"] = "lower"
    """What the normaliser does with letter case."""
    alphabet: str | None = "abcdefghijklmnopqrstuvwxyz'"
    """Characters that transcripts may hold, space aside; null takes those of the training texts,
    or, where there are none, those of `language`.
    Signs inside words (ZWJ, ZWNJ, `·`, `״`) are dropped where it lacks them, Hebrew points and
    Arabic tashkeel are kept where it has them."""
    spelling: SpellingParams = SpellingParams()
    """How numbers and letter strings become words."""
    language: Annotated[str, Field(pattern="^[a-z]{2,3}$")] | None = None
    """What texts are written in, as its ISO 639-1 code: sets `alphabet` where that is not written
    down (many languages in Latin script are listed in distillery/params/alphabets.py), and is the
    language of spelling and of the teacher where those name none."""
    unit: Literal["auto", "word", "character"] = "auto"
    """What errors are counted in: words, or characters where a language writes no spaces; `auto`
    goes by the script of most letters in the transcripts."""
    valid_fraction: Fraction = 0.1
    """Share of the training speakers (of utterances, where speakers are unknown or there is one)
    that validate, at least one of them; what was decided stays decided as data grow."""
    test_fraction: Fraction = 0.1
    """The same for test, used only where the corpus has no official test split."""
    labelled_fraction: Fraction = 1.0
    """Share of the training utterances that keep their transcripts, chosen by hash of the audio;
    the others count as unlabelled, which shows what students gain from such audio. 0 keeps none:
    everything comes from the teacher."""
    min_duration_seconds: NonNegativeFloat = 0.1
    """Shorter recordings are dropped."""
    max_duration_seconds: PositiveFloat = 30.0
    """Longer recordings are dropped."""
    segment: SegmentParams | None = None
    """Cuts long recordings without a transcript at pauses (extra `segment`); null leaves them
    whole. Rows with a transcript, or with an offset, are never cut."""
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

    @model_validator(mode="before")
    @classmethod
    def _alphabet_of_the_language(cls, values: Any) -> Any:
        """Write the language's alphabet down where none is."""
        if not isinstance(values, dict) or "alphabet" in values:
            return values
        language = values.get("language")
        if not isinstance(language, str):
            return values
        found = alphabet_of(language, str(values.get("case", "lower")))
        if found is None:
            raise ValueError(
                f"language: the alphabet of {language!r} is not known here, only those of "
                f"{sorted(BEYOND_LATIN)}; write the characters of its texts into alphabet"
            )
        return {**values, "alphabet": found}

    @field_validator("alphabet")
    @classmethod
    def _one_character_each(cls, alphabet: str | None) -> str | None:
        """Return the alphabet in NFC, as texts are; refuse what is no character or stands twice."""
        if alphabet is None:
            return None
        alphabet = unicodedata.normalize("NFC", alphabet)
        if not alphabet.strip(" "):
            raise ValueError(
                "holds no character, expected those that transcripts may hold; null takes those of "
                "the training texts"
            )
        for character in alphabet:
            if character == text.SPACE:
                raise ValueError(f"{_named(character)} stands for the space in tokens; remove it")
            if character.isspace() and character != " ":
                raise ValueError(
                    f"{_named(character)} is white space, which texts hold as spaces alone; remove "
                    "it (in YAML a block, `|`, ends in a newline: write the characters in quotes)"
                )
        letters = [letter for letter in _letters(alphabet) if letter != " "]
        if repeated := [letter for letter, count in Counter(letters).items() if count > 1]:
            raise ValueError(f"{_named(repeated[0])} stands twice, expected once; remove one")
        once = dict.fromkeys(alphabet.replace(" ", ""))
        if len(once) == len(alphabet.replace(" ", "")):
            return alphabet
        # Letters with marks share parts, each a character by itself; marks in front join with none.
        return "".join(sorted(once, key=lambda c: unicodedata.category(c)[0] != "M"))

    @model_validator(mode="after")
    def _one_language(self) -> PrepareParams:
        own, said = self.language, self.spelling.language
        if own is not None and said is not None and plain(own) != plain(said):
            raise ValueError(
                f"language is {own!r}, but spelling.language is {said!r}, so numbers would be said "
                "in another language than texts are written in; set spelling.language to null"
            )
        return self

    @model_validator(mode="after")
    def _segments_that_are_kept(self) -> PrepareParams:
        if self.segment is not None and self.segment.max_seconds > self.max_duration_seconds:
            raise ValueError(
                f"segment.max_seconds is {self.segment.max_seconds:g}, above max_duration_seconds "
                f"({self.max_duration_seconds:g}), from which on recordings are dropped; lower the "
                "one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _characters_that_texts_can_hold(self) -> PrepareParams:
        for character in (self.alphabet or "").replace(" ", ""):
            found = text.meaning(character, self.case)
            if found == character:
                continue
            becomes = "a space" if found == " " else repr(found) if found else "nothing"
            advice = f"write {found!r} in its place" if found.strip() else "remove it"
            if text.meaning(character, "keep") == character:
                advice += ", or set case to keep"
            raise ValueError(
                f"alphabet: {_named(character)} stands in no text, for the text rule with case "
                f"{self.case} makes {becomes} of it; {advice}"
            )
        return self

    @property
    def alphabet_without_texts(self) -> str | None:
        """The alphabet where no transcript shows it; None: the settings must say more."""
        if self.alphabet is not None:
            return self.alphabet
        return None if self.language is None else alphabet_of(self.language, self.case)

    @property
    def title(self) -> str:
        """What runs call the data: the corpus, or the folder of one's own recordings."""
        return (self.corpus == "manifest" and Path(self.source).name) or self.corpus


def _letters(alphabet: str) -> list[str]:
    """Return characters with the combining marks behind them, which a space keeps off."""
    letters: list[str] = []
    for character in alphabet:
        if unicodedata.category(character)[0] == "M" and letters and letters[-1] != " ":
            letters[-1] += character
        else:
            letters.append(character)
    return letters


def _named(letter: str) -> str:
    """Return a letter with its numbers and names in Unicode, for one may not see it."""
    names = [f"U+{ord(c):04X}, {unicodedata.name(c, 'without a name')}" for c in letter]
    return f"{letter!r} ({' + '.join(names)})"
