"""A folder of recordings into a JSONL file of their texts, which a kill at any time leaves usable.

One line a recording:

    {"path": "a/b.wav", "text": "…", "duration_seconds": 1.5, "model": "0123456789ab"}
    {"path": "a/c.wav", "error": "a/c.wav: cannot be decoded: …", "model": "0123456789ab"}

`path` is relative to the folder, `model` the start of the SHA-256 over the weights of the form that
listened, and over decoder and hot words where there were any, with the channel where one was chosen
(`0123456789ab/1`). Lines are appended batch by
batch, each batch synced to the disk; at the end they are put into the order of their paths. The
next run reads what is there, drops half a line at the end, and goes on. Batches depend on the
folder alone, not on what is done already, so an interrupted job ends with the bytes of one that was
not.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from tqdm import tqdm

from distillery.data.audio import estimate_seconds, find_audio
from distillery.data.lengths import in_batches_by_length
from distillery.decoder.trie import HotWord
from distillery.errors import AudioError, TranscriptsError
from distillery.files import write_bytes
from distillery.serve.reading import Recording
from distillery.serve.texts import digest_of_texts

if TYPE_CHECKING:
    from distillery.serve.served import Transcriber

BATCH_SECONDS = 60.0
MAX_BATCH_FILES = 64
MODEL_DIGITS = 12
ROUNDED_DIGITS = 3


@dataclass(frozen=True)
class Transcribed:
    """The line of a recording that has a text; fields stand in this order."""

    path: str
    """Relative to the folder."""
    text: str
    duration_seconds: float
    model: str
    """Start of the SHA-256 over the weights that listened."""


@dataclass(frozen=True)
class Failed:
    """The line of a recording that could not be decoded; fields stand in this order."""

    path: str
    """Relative to the folder."""
    error: str
    """Why."""
    model: str
    """Start of the SHA-256 over the weights that listened."""


Row = Transcribed | Failed


@dataclass(frozen=True)
class Counts:
    """What became of a folder's recordings."""

    num_transcribed: int
    num_failed: int
    num_kept: int
    """Whose texts were there already."""
    cautions: tuple[str, ...] = ()
    """A sentence on each recording whose channels do not mix well."""


def transcribe_folder(
    recogniser: Transcriber,
    folder: Path,
    out: Path,
    batch_seconds: float = BATCH_SECONDS,
    channel: int | None = None,
    hot_words: Sequence[HotWord] = (),
) -> Counts:
    """Write the text of every recording in a folder, or go on with what a former run wrote.

    A recording that failed is tried again; one that has a text is not read again.

    Args:
        recogniser: the student, in any form.
        folder: searched with all folders below; what is no recording by its name is left alone.
        out: the JSONL file.
        batch_seconds: audio in one batch, padding included; a longer recording stands alone.
        channel: the one to take, from 0 on; None mixes all.
        hot_words: more than the student's decoder has; other ones make other texts.

    Raises:
        AudioError: the folder holds no recordings.
        TranscriptsError: `out` is of another model, is no such file, cannot be written, or another
            process is writing it.
    """
    files = find_recordings(folder)
    model = digest_of_texts(recogniser, hot_words)[:MODEL_DIGITS]
    if channel is not None:  # another channel has other texts, which go into another file
        model += f"/{channel}"
    cautions: list[str] = []
    num_new = num_failed = 0
    with Transcripts.open(out, model) as transcripts:
        num_kept = sum(name in transcripts.texts for name in files)
        batches = by_length(files, batch_seconds)
        with tqdm(
            total=len(files), initial=num_kept, desc="transcribe", unit="file", disable=None
        ) as progress:
            for batch in batches:
                todo = [name for name in batch if name not in transcripts.texts]
                if not todo:
                    continue
                rows, told = _transcribe(recogniser, folder, batch, model, channel, hot_words)
                cautions += told
                rows = [row for row in rows if row.path in todo]
                transcripts.append(rows)
                failed = sum(isinstance(row, Failed) for row in rows)
                num_failed += failed
                num_new += len(todo) - failed
                progress.update(len(todo))
        transcripts.finish()
    return Counts(num_new, num_failed, num_kept, tuple(cautions))


def find_recordings(folder: Path) -> dict[str, float]:
    """Return the recordings below a folder: path relative to it → seconds, about.

    Where a header cannot be read or tells no length, the size of the file has to do.

    Raises:
        AudioError: there are none.
    """
    found = {str(path.relative_to(folder)): estimate_seconds(path) for path in find_audio(folder)}
    if not found:
        raise AudioError(
            f"{folder}: holds no recording, expected WAV, FLAC, MP3, OGG files or others that "
            "docs/your-own-data.md lists"
        )
    return found


def by_length(files: dict[str, float], batch_seconds: float) -> Iterator[list[str]]:
    """Yield batches of recordings of like length, the longest first.

    Args:
        files: seconds of each.
        batch_seconds: most audio in one batch, each counting as long as its longest.
    """
    names = sorted(files, key=lambda name: (-files[name], name))
    lengths = [files[name] for name in names]
    for batch in in_batches_by_length(
        range(len(names)), lengths, max_padded=batch_seconds, max_items=MAX_BATCH_FILES
    ):
        yield [names[index] for index in batch]


def _transcribe(
    recogniser: Transcriber,
    folder: Path,
    batch: Sequence[str],
    model: str,
    channel: int | None,
    hot_words: Sequence[HotWord],
) -> tuple[list[Row], list[str]]:
    """Return the lines of a batch, and a sentence on each whose channels do not mix well."""
    rows: dict[str, Row] = {}
    recordings: dict[str, Recording] = {}
    texts: dict[str, str] = {}
    short: dict[str, np.ndarray] = {}
    for name in batch:
        recording = Recording(folder / name, recogniser.sample_rate_hz, name, channel)
        try:
            sound = recording.sound()
            if isinstance(sound, np.ndarray):
                short[name] = sound
            else:  # alone, since it may still turn out to be damaged
                (texts[name],) = recogniser.transcribe([sound], hot_words)
        except AudioError as error:
            rows[name] = Failed(name, str(error), model)
            continue
        recordings[name] = recording
    if short:
        found = recogniser.transcribe(list(short.values()), hot_words)
        texts.update(zip(short, found, strict=True))
    for name, recording in recordings.items():
        seconds = round(recording.seconds, ROUNDED_DIGITS)
        rows[name] = Transcribed(name, texts[name], seconds, model)
    cautions = [f"{name}: {r.caution}" for name, r in recordings.items() if r.caution is not None]
    return [rows[name] for name in batch], cautions


class Transcripts:
    """The JSONL file while it grows; this process alone writes it."""

    def __init__(self, path: Path, file: BinaryIO, model: str) -> None:
        self._path = path
        self._file = file
        self._model = model
        self._rows: dict[str, Row] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, model: str) -> Iterator[Transcripts]:
        """Open the file, created if it is not there, for one model and for this process alone.

        Raises:
            TranscriptsError: another process has it, it is of another model, or no such file.
        """
        try:
            with _locked(path) as file:
                transcripts = cls(path, file, model)
                transcripts._read()
                yield transcripts
        except OSError as error:
            raise TranscriptsError(
                f"{path}: cannot be written ({error.strerror or error}); fix that and run the "
                "same command again; it continues with what is there"
            ) from error

    @property
    def texts(self) -> set[str]:
        """Paths of the recordings whose texts are there."""
        return {name for name, row in self._rows.items() if isinstance(row, Transcribed)}

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows; they are on the disk when this returns."""
        self._file.write(_lines(rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows |= {row.path: row for row in rows}

    def finish(self) -> None:
        """Put the lines into the order of their paths, one for each."""
        content = _lines([self._rows[name] for name in sorted(self._rows)])
        if content != self._path.read_bytes():
            write_bytes(self._path, content)

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            row = _row(line)
            if row is None:
                raise TranscriptsError(
                    f"{self._path}: line {number} was not written by transcribe, expected "
                    "path, model and text or error; choose another file"
                )
            if row.model != self._model:
                raise TranscriptsError(
                    f"{self._path}: line {number} is of model {row.model}, this one is "
                    f"{self._model}; choose another file, or remove this one to begin again"
                )
            self._rows[row.path] = row
        self._file.truncate(len(whole))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Yield the file, opened to read and append, while no other process can do the same."""
    while True:
        with open(path, "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TranscriptsError(
                    f"{path}: another process is writing it; wait for it, or choose another file"
                ) from None
            if _is(path, file):
                yield file
                return


def _is(path: Path, file: BinaryIO) -> bool:
    """Return whether an open file still is what its path names: one that ended replaced it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _row(line: bytes) -> Row | None:
    try:
        content = json.loads(line)
        row: Row = Transcribed(**content) if "text" in content else Failed(**content)
    except (ValueError, TypeError):
        return None
    return row if isinstance(row.path, str) and isinstance(row.model, str) else None


def _lines(rows: Sequence[Row]) -> bytes:
    """Return rows as JSON lines; a file name that is no text keeps its bytes as JSON's escapes."""
    text = "".join(f"{json.dumps(asdict(row), ensure_ascii=False)}\n" for row in rows)
    return text.encode("utf-8", errors="backslashreplace")
