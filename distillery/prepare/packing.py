"""One recording after another into packed audio: kept as a row and its samples, or dropped.

Audio streams into shards, so memory holds one row of metadata per utterance, never the corpus.
Transcripts that `prepare.labelled_fraction` takes away are forgotten before anything looks at them:
what is kept, dropped or in the alphabet depends on the others alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from distillery.corpora.base import Recording
from distillery.data import text
from distillery.data.audio import compute_num_samples
from distillery.data.manifest import AUDIO_SUFFIX, SAMPLE_DTYPE, shard_name
from distillery.data.spelling import without_marks
from distillery.data.units import PHRASES_APART
from distillery.params.prepare import PrepareParams
from distillery.prepare.levels import OVERDRIVEN, Levels
from distillery.prepare.profile import Leaks, Profile, ProfileBuilder, Repeated
from distillery.prepare.rows import Row, Rows
from distillery.prepare.spelling import Spelling
from distillery.prepare.splits import hash_fraction

UNKNOWN_CHARACTERS = "unknown_characters"
TOO_LONG = "too_long"
MUCH_OFFSET = 0.01
"""Mean of samples, full scale being 1, that is worth a word."""
PACKING_ORDER = ("test", "valid", "train")
"""What is judged on comes first, so that its audio is known when the others are looked at."""


@dataclass(frozen=True)
class Drop:
    """One utterance that was left out."""

    utterance_id: str
    source_path: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Decoded:
    """One recording's audio at the prepared rate, or why there is none."""

    samples: np.ndarray  # int16 (samples,); empty where there is a reason
    key: str = ""
    levels: Levels = Levels()  # noqa: RUF009 (frozen)
    overdriven_fraction: float = 0.0
    """Share of what is no digital silence at full scale, before it was resampled."""
    reason: str | None = None
    detail: str = ""
    caution: str | None = None
    """What is wrong with its channels."""


def too_long(duration_seconds: float, params: PrepareParams) -> tuple[str, str]:
    """Return why audio of a length is dropped."""
    bound = f"at most {params.max_duration_seconds:g}"
    return TOO_LONG, f"{duration_seconds:.3f} s, expected {bound} s"


class Group(NamedTuple):
    """What is packed together: a file holds audio of one group, so that others do not change it."""

    split: int
    """Place in PACKING_ORDER."""
    addition: int
    """With which addition to the corpus the recordings came."""


class Place(NamedTuple):
    """Where packed audio ends."""

    shard: int
    """Index of the last file; -1: there is none."""
    offset: int
    """Samples in it."""


class _Shards:
    """Packed audio files, filled one after another; only buffers are held in memory.

    A file ends where it is full, and where a group does.

    At first what is written is taken to be there already, as a run before left it; from
    `begin` on it is not.
    """

    def __init__(self, folder: Path, max_samples: int) -> None:
        self._folder = folder
        self._max_samples = max_samples
        self._file: BinaryIO | None = None
        self._has_begun = False
        self._group: Group | None = None
        self._is_full = True
        self._shard = -1
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def enter(self, group: Group) -> None:
        """Say of which group the samples are that come next."""
        self._is_full |= group != self._group
        self._group = group

    def write(self, samples: np.ndarray) -> tuple[int, int]:
        """Append int16 samples `(samples,)`; return the shard and the offset they start at."""
        if self._is_full or self._offset + len(samples) > self._max_samples:
            self._open_next()
        if self._file is not None:
            self._file.write(samples.data)
        start = self._offset
        self._offset += len(samples)
        return self._shard, start

    @property
    def place(self) -> Place:
        """Where the audio ends."""
        return Place(self._shard, self._offset)

    def begin(self) -> bool:
        """Write from here on, behind what is there; return whether that is all there.

        What a run before wrote beyond it is cut off.
        """
        self._has_begun = True
        known = [self._folder / shard_name(shard) for shard in range(self._shard + 1)]
        for path in set(self._folder.glob(f"*{AUDIO_SUFFIX}")) - {*known}:
            path.unlink()
        if not all(path.exists() for path in known):
            return False
        if known:
            size = self._offset * SAMPLE_DTYPE.itemsize
            if known[-1].stat().st_size < size:
                return False
            self._file = open(known[-1], "r+b")  # noqa: SIM115
            self._file.truncate(size)
            self._file.seek(size)
        return True

    def sync(self) -> None:
        """Make sure that a power cut takes nothing of what was written."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _open_next(self) -> None:
        if self._file is not None:
            self.sync()
            self._file.close()
        self._shard += 1
        self._offset, self._is_full = 0, False
        if self._has_begun:
            self._file = open(self._folder / shard_name(self._shard), "wb")  # noqa: SIM115


class Packing:
    """Decides about one recording after another: a row and its samples, or a reason."""

    def __init__(self, params: PrepareParams, folder: Path, spelling: Spelling) -> None:
        self._params = params
        self.spelling = spelling
        self._alphabet = None if params.alphabet is None else set(params.alphabet) | {" "}
        self._keys: dict[str, set[str]] = {"test": set(), "valid": set()}
        max_samples = compute_num_samples(params.shard_seconds, params.sample_rate_hz)
        self.shards = _Shards(folder, max_samples)
        self.rows = Rows()
        self.dropped: list[Drop] = []
        self.num_hidden_transcripts = 0
        self.respelt: list[tuple[str, str]] = []
        """Transcripts that hold numbers or letter strings, and what became of them."""
        self.cautions: dict[str, str] = {}
        """By recording: what is wrong with its channels."""
        self._refused: list[set[str]] = []

    def add(self, recording: Recording, split: str, decoded: Decoded) -> None:
        """Keep or drop one recording; best in packing order, for then no copy is written first."""
        if decoded.caution is not None:
            self.cautions[recording.source_path] = decoded.caution
        has_text = recording.text is not None and not recording.keeps_text
        hidden = has_text and self._is_hidden(decoded, split)
        if hidden:
            recording = replace(recording, text=None)
        words = None
        if recording.text is not None:
            said = self.spelling.said(recording.text)
            words = text.normalise(said, self._params.case, self._params.alphabet)
            if said != recording.text:
                if self._params.alphabet is not None:  # `één` where a–z is all there is
                    known = {
                        *self._params.alphabet,
                        *recording.text.lower(),
                        *recording.text.upper(),
                    }
                    words = without_marks(words, known)
                self.respelt.append((recording.text, words))
        if decoded.reason is not None:
            drop: tuple[str, str] | None = (decoded.reason, decoded.detail)
        else:
            drop = (
                self._fault_of_length(decoded)
                or self._fault_of_level(decoded)
                or self._fault_of_text(recording, words, split)
                or self._fault_of_both(decoded, words, split)
            )
        if drop is not None:
            if drop[0] == TOO_LONG and (hidden or words) and recording.segment is None:
                drop = (TOO_LONG, drop[1] + self._why_not_cut())
            self.dropped.append(Drop(recording.utterance_id, recording.source_path, *drop))
            if drop[0] == UNKNOWN_CHARACTERS:
                self._refused.append(self._unknown(words))
            return
        if split != "train":
            self._keys[split].add(decoded.key)
        self.num_hidden_transcripts += hidden
        self._keep(recording, words, split, decoded)

    def _why_not_cut(self) -> str:
        if self._params.segment is None:
            return ""
        return (
            "; prepare.segment cuts nothing that has a transcript, for nothing says which words "
            "fall where: give segments (offset and duration) with their texts, or empty the text"
        )

    def _is_hidden(self, decoded: Decoded, split: str) -> bool:
        """Return whether `labelled_fraction` takes a transcript away; equal audio, equal answer."""
        fraction = self._params.labelled_fraction
        return split == "train" and hash_fraction("labelled", decoded.key) >= fraction

    def _keep(self, recording: Recording, words: str | None, split: str, decoded: Decoded) -> None:
        shard, offset = self.shards.write(decoded.samples)
        seconds = len(decoded.samples) / self._params.sample_rate_hz
        self.rows.append(
            Row(
                utterance_id=recording.utterance_id,
                speaker=recording.speaker,
                split=split,
                text=words,
                text_original=recording.text,
                source_path=recording.source_path,
                shard=shard,
                offset_samples=offset,
                num_samples=len(decoded.samples),
                duration_seconds=seconds,
                audio_key=decoded.key,
                level_dbfs=decoded.levels.level_dbfs,
                clipped_fraction=decoded.levels.clipped_fraction,
                dc_offset=decoded.levels.dc_offset,
                silent_fraction=decoded.levels.silent_fraction,
                expected=self._phrases(recording),
            )
        )

    def _phrases(self, recording: Recording) -> str | None:
        """Return the phrases that are spoken, normalised, each once; None where none are known."""
        case, alphabet = self._params.case, self._params.alphabet
        said = map(self.spelling.said, recording.expected)
        phrases = (text.normalise(phrase, case, alphabet) for phrase in said)
        return PHRASES_APART.join(dict.fromkeys(filter(None, phrases))) or None

    def drop_copies(self) -> None:
        """Drop what turned out to be in a split before its own, because that came later."""
        copies = set()
        for index, (key, split) in enumerate(self.rows.columns("audio_key", "split")):
            if fault := self._fault_of_copy(key, split):
                row = self.rows[index]
                self.dropped.append(Drop(row.utterance_id, row.source_path, *fault))
                copies.add(index)
        if copies:
            self.rows = Rows(row for index, row in enumerate(self.rows) if index not in copies)

    def profile(self, respelt_speakers: int) -> Profile:
        """Return what the utterances that were kept are like."""
        builder = ProfileBuilder()
        looked_at = ("split", "duration_seconds", "level_dbfs", "clipped_fraction", "text")
        for values in self.rows.columns(*looked_at):
            builder.add(*values)
        for characters in self._refused:
            builder.refuse(characters)
        reasons = Counter(drop.reason for drop in self.dropped)
        copies = {split: reasons[f"also_in_{split}"] for split in self._keys}
        return builder.profile(Leaks(_repeated(self.rows), copies, respelt_speakers))

    def _fault_of_length(self, decoded: Decoded) -> tuple[str, str] | None:
        duration_seconds = len(decoded.samples) / self._params.sample_rate_hz
        if duration_seconds < self._params.min_duration_seconds:
            bound = f"at least {self._params.min_duration_seconds:g}"
            return "too_short", f"{duration_seconds:.3f} s, expected {bound} s"
        if duration_seconds > self._params.max_duration_seconds:
            return too_long(duration_seconds, self._params)
        return None

    def _fault_of_level(self, decoded: Decoded) -> tuple[str, str] | None:
        level, lowest = decoded.levels.sound_dbfs, self._params.min_level_db
        if level < lowest:
            offset = decoded.levels.dc_offset
            besides = f" around an offset of {offset:.2f}" if abs(offset) > MUCH_OFFSET else ""
            return (
                "no_speech",
                f"{level:.1f} dB below full scale{besides}, expected {lowest:g} or more "
                "(prepare.min_level_db)".replace("-", "−"),
            )
        if decoded.overdriven_fraction >= OVERDRIVEN:
            return (
                "overdriven",
                f"{decoded.overdriven_fraction:.0%} of its samples are at full scale, such as "
                "floats in the scale of integers; expected floats from −1 to 1",
            )
        return None

    def _fault_of_text(
        self, recording: Recording, words: str | None, split: str
    ) -> tuple[str, str] | None:
        if words is None:
            return None
        if not words:
            return (
                "empty_text",
                f"nothing is left of {recording.text!r} after normalisation",
            )
        if split == "test" or self._alphabet is None:  # scoring needs no tokens
            return None
        if unknown := self._unknown(words):
            return (
                UNKNOWN_CHARACTERS,
                f"{sorted(unknown)} in {words!r} are not in prepare.alphabet"
                + (
                    "; prepare.spelling can say in which words digits are said"
                    if any(c.isdigit() for c in unknown)
                    else ""
                ),
            )
        return None

    def _unknown(self, words: str | None) -> set[str]:
        return set(words or "") - (self._alphabet or set(words or ""))

    def _fault_of_both(
        self, decoded: Decoded, words: str | None, split: str
    ) -> tuple[str, str] | None:
        if copy := self._fault_of_copy(decoded.key, split):
            return copy
        if words is None or split != "train" or self._params.too_short_for_ctc == "keep":
            return None
        shift = compute_num_samples(
            self._params.ctc_frame_shift_seconds, self._params.sample_rate_hz
        )
        frames, needed = -(-len(decoded.samples) // shift), text.min_ctc_frames(words)
        if frames < needed:
            return "too_short_for_ctc", f"{frames} frames, {words!r} needs {needed}"
        return None

    def _fault_of_copy(self, key: str, split: str) -> tuple[str, str] | None:
        for other in PACKING_ORDER[: PACKING_ORDER.index(split)]:
            if key in self._keys[other]:
                return f"also_in_{other}", f"audio {key[:12]}… is also in the {other} split"
        return None


def _repeated(rows: Rows) -> Mapping[str, Repeated]:
    """Return how many sentences of validation and test stand in the training split, too."""
    texts: dict[str, Counter[str]] = {split: Counter() for split in PACKING_ORDER}
    for split, said in rows.columns("split", "text"):
        if said is not None:
            texts[split][said] += 1
    return {
        split: Repeated(
            texts[split].total(),
            sum(count for text, count in texts[split].items() if text in texts["train"]),
        )
        for split in ("test", "valid")
    }
