"""What a killed preparation had done, so that the next one goes on from there.

Packing goes through the recordings in one order and writes one stream of samples. The journal,
beside the shards until they are whole, has a line for each recording that is done: what decoding
found of it, and where the stream ended behind it. The next run decides anew about every recording,
which costs little, with what the journal says in place of what decoding would say. Where a
recording, or what decodes it, is another one, it goes on from there as if the rest had never been.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

import distillery
from distillery.corpora.base import Recording
from distillery.data.manifest import SAMPLE_DTYPE
from distillery.params.prepare import PrepareParams
from distillery.prepare.levels import Levels
from distillery.prepare.packing import Decoded, Place

JOURNAL_FILE = ".journal"
SAVE_SECONDS = 5.0
"""What a kill costs, about."""
DECODERS = ("numpy", "soundfile", "torch", "torchaudio")
"""Libraries that decide what samples are."""


class Diverged(Exception):
    """Packing decided otherwise than the journal says: it is of no use."""


def made_by(params: PrepareParams) -> str:
    """Return a digest of what decides how a recording is decoded: settings, code and libraries."""
    digest = hashlib.sha256(params.model_dump_json().encode())
    for name in DECODERS:
        try:
            digest.update(f"{name} {version(name)}\n".encode())
        except PackageNotFoundError:  # then nothing is decoded by it
            continue
    for path in sorted(Path(distillery.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Journal:
    """The lines of one preparation, read as far as they hold, then written on."""

    def __init__(self, folder: Path, made_by: str) -> None:
        """Name a journal.

        Args:
            folder: of the shards.
            made_by: digest of what decodes; lines of another one do not hold.
        """
        self._path = folder / JOURNAL_FILE
        self._header = f"{json.dumps(made_by)}\n".encode()
        self._waiting: list[bytes] = []

    def __enter__(self) -> Self:
        self._file = open(self._path, "a+b")  # closed at the end of the block
        self._saved = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def done(
        self, recordings: Iterable[Recording], splits: Mapping[str, str]
    ) -> Iterator[tuple[Recording, Decoded, Place]]:
        """Yield what was done, from the first recording on, with where the stream ended behind it.

        Of the samples there is only how many they are: the shards have them. What is behind the
        last line that holds is cut off.

        Args:
            recordings: in packing order.
            splits: of every utterance.
        """
        self._file.seek(0)
        if self._file.readline() != self._header:
            self._file.truncate(0)
            self._file.write(self._header)
            return
        end = self._file.tell()
        for recording in recordings:
            entry = _read(self._file.readline(), signature(recording, splits))
            if entry is None:
                break
            end = self._file.tell()
            yield recording, *entry
        self._file.truncate(end)

    def note(self, recording: Recording, split: str, decoded: Decoded, place: Place) -> None:
        """Note that a recording is done; nothing is written before `save`.

        Args:
            recording: the recording.
            split: of its utterance.
            decoded: what decoding found.
            place: where the stream ends now.
        """
        entry = (
            signature(recording, {recording.utterance_id: split}),
            *place,
            len(decoded.samples),
            decoded.key,
            astuple(decoded.levels),
            decoded.overdriven_fraction,
            decoded.reason,
            decoded.detail,
            decoded.caution,
        )
        self._waiting.append(f"{json.dumps(entry)}\n".encode())

    @property
    def is_due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved >= SAVE_SECONDS

    def save(self) -> None:
        """Write what was noted; the samples must be on the disk by then."""
        self._file.writelines(self._waiting)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._waiting.clear()
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)


def signature(recording: Recording, splits: Mapping[str, str]) -> str:
    """Return a digest of a recording and of its file's size and time of change."""
    fields: list[object] = [
        recording.utterance_id,
        recording.source_path,
        recording.speaker,
        recording.text,
        recording.split,
        recording.segment and astuple(recording.segment),
        recording.keeps_text,
        recording.expected,
        splits[recording.utterance_id],
    ]
    if isinstance(recording.audio, Path):
        try:
            found = recording.audio.stat()
            fields += [str(recording.audio), found.st_size, found.st_mtime_ns]
        except OSError:
            fields.append(None)
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


def _read(line: bytes, wanted: str) -> tuple[Decoded, Place] | None:
    """Return what a line says; None where it is another recording's, or cut short."""
    if not line.endswith(b"\n"):
        return None
    found, shard, offset, num_samples, key, levels, overdriven, *why = json.loads(line)
    if found != wanted:
        return None
    samples = np.broadcast_to(np.zeros((), SAMPLE_DTYPE), num_samples)
    reason, detail, caution = why
    decoded = Decoded(samples, key, Levels(*levels), overdriven, reason, detail, caution)
    return decoded, Place(shard, offset)
