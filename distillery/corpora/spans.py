"""Where utterances that were cut out of long recordings stand in them: segments.csv.

The file lies in a prepared folder only where `prepare.segment` cut something. It accounts for
every second of each recording that was cut: a row is an utterance, or a stretch that was left out
and why.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.errors import ManifestError
from distillery.files import read_text

SPANS_FILE = "segments.csv"
SPEECH = "speech"
NO_SPEECH = "no_speech"
"""A pause, noise or music: no speech was detected."""
TOO_SHORT = "too_short"
"""A click or breath that was taken for speech, or less than `prepare.min_duration_seconds`."""
HEADER = ("utterance_id", "source_path", "start_seconds", "end_seconds", "what")


@dataclass(frozen=True)
class Span:
    """A stretch of a recording."""

    utterance_id: str
    """Empty where the stretch was left out."""
    source_path: str
    """Of the recording, relative to the corpus."""
    start_seconds: float
    """In the recording."""
    end_seconds: float
    what: str
    """`speech`, or why it was left out: `no_speech` or `too_short`."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end_seconds - self.start_seconds


def as_csv(spans: Iterable[Span]) -> bytes:
    """Return segments.csv; times have milliseconds."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(
        (s.utterance_id, s.source_path, f"{s.start_seconds:.3f}", f"{s.end_seconds:.3f}", s.what)
        for s in spans
    )
    return buffer.getvalue().encode("utf-8", errors="backslashreplace")


def read_spans(folder: Path) -> list[Span]:
    """Return what a prepared folder says of cut recordings; nothing where none was cut.

    Raises:
        ManifestError: the file is no such file.
    """
    path = folder / SPANS_FILE
    if not path.exists():
        return []
    try:
        rows = csv.DictReader(io.StringIO(read_text(path, ManifestError), newline=""), strict=True)
        return [
            Span(
                row["utterance_id"],
                row["source_path"],
                float(row["start_seconds"]),
                float(row["end_seconds"]),
                row["what"],
            )
            for row in rows
        ]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ManifestError(
            f"{path}: cannot be read ({error!r}), expected columns {list(HEADER)}; "
            "run make prepare again"
        ) from None


def utterances_between(
    spans: Sequence[Span], source_path: str, start_seconds: float, end_seconds: float
) -> list[tuple[Span, float]]:
    """Return the utterances that a stretch of a recording touches, with the seconds in common.

    So texts with times in a recording, as other recognisers write them, find their utterances.

    Args:
        spans: as `read_spans` returns them.
        source_path: the recording.
        start_seconds: of the stretch, in the recording.
        end_seconds: of the stretch.

    Returns:
        In the order of time; empty where the stretch lies in what was left out.
    """
    found = []
    for span in spans:
        if span.source_path != source_path or not span.utterance_id:
            continue
        common = min(end_seconds, span.end_seconds) - max(start_seconds, span.start_seconds)
        if common > 0:
            found.append((span, common))
    return sorted(found, key=lambda pair: pair[0].start_seconds)
