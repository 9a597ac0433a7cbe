"""What every corpus reader hands over, and how it asks for a corpus that is not there.

A reader is a function `read_<name>(params, source)` that yields recordings in any order; it reads
lists and names, never audio. Public corpora add `download_<name>(source)`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from distillery.corpora.lists import find_file
from distillery.corpora.segments import Segment, read_segment
from distillery.data.audio import Audio, read_audio
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams

NUM_SHOWN_CHARACTERS = 80
UTTERANCE_ID_PATTERN = r"[A-Za-z0-9_.-]{1,128}"


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance of a corpus, as published: nothing normalised, nothing decoded yet."""

    utterance_id: str
    source_path: str
    """Relative to the corpus folder; for generated speech, a name that tells how it is made."""
    speaker: str | None
    """Null where unknown."""
    text: str | None
    """As published; null = unlabelled."""
    split: str | None
    """The official one of train, valid and test; null = the stage decides."""
    audio: Path | Callable[[], tuple[np.ndarray, int]]
    """A file, or what returns int16 samples `(samples,)` and their rate in hertz."""

    segment: Segment | None = None
    """The part of the file that is meant; null: all of it."""
    keeps_text: bool = False
    """Whether `prepare.labelled_fraction` leaves the text where it is."""
    expected: tuple[str, ...] = ()
    """Phrases that are spoken, in any order, as published; empty where none are known."""

    def read(self, channel: int | None = None, keep_seconds: float = math.inf) -> Audio:
        """Return the audio.

        Args:
            channel: the one to take, from 0 on; None mixes all.
            keep_seconds: of longer audio, no samples are kept.

        Raises:
            AudioError: as `distillery.data.audio.read_audio`; or the file ends before the segment.
        """
        if not isinstance(self.audio, Path):
            samples, rate_hz = self.audio()
            return Audio(samples, rate_hz, seconds=len(samples) / rate_hz)
        if self.segment is None:
            return read_audio(
                self.audio, self.source_path, channel=channel, keep_seconds=keep_seconds
            )
        return read_segment(self.audio, self.source_path, self.segment, channel, keep_seconds)

    def decode(self) -> tuple[np.ndarray, int]:
        """Return int16 samples `(samples,)`, channels mixed, and their rate in hertz.

        Raises:
            AudioError: as `read`.
        """
        audio = self.read()
        return audio.samples, audio.rate_hz


def listed_file(source: Path, name: str) -> Path:
    """Return the path of a file that a published corpus's own list names.

    Raises:
        CorpusError: it lies outside the corpus, or its name can be none.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or {"..", ""} & set(name.split("/")) or not name.isprintable():
        raise _no_file_inside(source, name)
    try:
        return find_file(source, path)
    except (OSError, ValueError):  # far too long, a loop of links
        raise _no_file_inside(source, name) from None


def _no_file_inside(source: Path, name: str) -> CorpusError:
    return CorpusError(
        f"{source}: its lists name {name[:NUM_SHOWN_CHARACTERS]!r}, expected a file inside; "
        "restore the published corpus"
    )


def fold_speaker(name: str) -> str:
    """Return what is the same for spellings of a speaker that differ by blanks or case alone."""
    return " ".join(unicodedata.normalize("NFC", name).split()).casefold()


Reader = Callable[[PrepareParams, Path], Iterable[Recording]]


def require(
    path: Path,
    params: PrepareParams,
    source: Path,
    layout: str,
    download: Callable[[Path], None],
) -> None:
    """Make sure that a public corpus is there, downloading it when params allow that.

    Args:
        path: what must exist inside the source folder.
        params: `corpus` names the corpus in errors, `download` allows the download.
        source: the corpus folder.
        layout: one line that says what the folder must hold.
        download: called with `source`.

    Raises:
        CorpusError: `path` is missing and may not be downloaded, or still is missing afterwards.
    """
    if path.exists():
        return
    if params.download:
        download(source)
    if not path.exists():
        raise CorpusError(
            f"corpus {params.corpus}: {path} does not exist; {source} must hold {layout}. "
            "Set prepare.download: true, or put the corpus there, or correct prepare.source"
        )
