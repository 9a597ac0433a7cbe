"""Recordings of generated speech that arrive by the day, some of them broken or mixed up."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from distillery.corpora.base import Recording
from distillery.corpora.commands import read_commands
from distillery.errors import StageError
from distillery.params.prepare import CommandsParams, PrepareParams
from examples.week.plan import Day

ARCHIVE_SPEAKERS, VALID_SPEAKERS, TEST_SPEAKERS = 12, 2, 6
SENTENCES = 20


@dataclass
class Row:
    """One line of the manifest, and the recording that belongs there."""

    recording: Recording
    split: str
    text: str
    broken: bool = False


class Deliveries:
    """A corpus folder that grows."""

    def __init__(self, folder: Path, pool: Sequence[Recording]) -> None:
        """Begin with the validation and test splits.

        Args:
            folder: of the corpus.
            pool: recordings that may arrive, in their order, behind those of the two splits.
        """
        self.folder = folder
        self._rows: list[Row] = []
        speakers = list(dict.fromkeys(item.speaker for item in pool if item.split == "train"))
        valid = set(speakers[:VALID_SPEAKERS])
        self._to_come = [x for x in pool if x.split == "train" and x.speaker not in valid]
        for item in pool:
            if item.split == "test" or item.speaker in valid:
                self._add(Row(item, "test" if item.split == "test" else "valid", str(item.text)))
        self._write_manifest()

    def deliver(self, day: Day) -> None:
        """Let a day's recordings arrive."""
        if day.mended:
            for row in self._rows:
                if row.broken:
                    row.broken = False
                    self._write_audio(row)
                row.text = str(row.recording.text)
        new, self._to_come = self._to_come[: day.recordings], self._to_come[day.recordings :]
        if len(new) < day.recordings:
            raise StageError(f"{day.name}: {day.recordings} recordings, only {len(new)} are left")
        texts = [str(item.text) for item in new]
        if day.shifted:
            texts = [*texts[1:], *texts[:1]]
        for number, (item, text) in enumerate(zip(new, texts, strict=True)):
            self._add(Row(item, "train", text, broken=number < day.broken))
        self._write_manifest()

    def _add(self, row: Row) -> None:
        self._rows.append(row)
        self._write_audio(row)

    def _path(self, row: Row) -> Path:
        return self.folder / f"{row.recording.utterance_id}.flac"

    def _write_audio(self, row: Row) -> None:
        path = self._path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, rate_hz = row.recording.decode()
        soundfile.write(path, samples, rate_hz)
        if row.broken:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])

    def _write_manifest(self) -> None:
        with open(self.folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "text", "speaker", "split"])
            for row in self._rows:
                item = row.recording
                writer.writerow([self._path(row).name, row.text, item.speaker, row.split])


def recordings(grammar: Path, num_speakers: int) -> list[Recording]:
    """Return generated speech: training speakers one after the other, then the test speakers."""
    wanted = CommandsParams(
        num_train_speakers=num_speakers,
        num_test_speakers=TEST_SPEAKERS,
        sentences_per_speaker=SENTENCES,
    )
    settings = PrepareParams(corpus="commands", source=str(grammar), commands=wanted)
    return list(read_commands(settings, grammar))


def split_by_speaker(pool: Sequence[Recording]) -> tuple[list[Recording], list[Recording]]:
    """Return the archive and the week's recordings; the test speakers are in both."""
    speakers = list(dict.fromkeys(item.speaker for item in pool if item.split == "train"))
    first = set(speakers[:ARCHIVE_SPEAKERS])
    archive = [item for item in pool if item.split == "test" or item.speaker in first]
    week = [item for item in pool if item.split == "test" or item.speaker not in first]
    return archive, week


def num_speakers(plan: Sequence[Day]) -> int:
    """Return how many training speakers archive and week need."""
    arriving = sum(day.recordings for day in plan)
    return ARCHIVE_SPEAKERS + VALID_SPEAKERS + -(-arriving // SENTENCES)
