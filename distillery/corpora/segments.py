"""Segments of a long recording, cut out while it is decoded once, from its start to its end.

Memory holds a block of the recording and the segments that are being cut, never all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillery.data.audio import Audio, Reader, compute_num_samples
from distillery.errors import AudioError

TOLERANCE_SECONDS = 0.05
"""How far a segment may reach past the end: durations in manifests are rounded."""


@dataclass(frozen=True)
class Segment:
    """A part of a recording."""

    offset_seconds: float
    duration_seconds: float | None
    """None: up to the end."""


@dataclass
class _Cut:
    """A segment while it is cut."""

    index: int
    start: int
    end: int | None
    pieces: list[np.ndarray]
    num_samples: int = 0


def cut_segments(
    reader: Reader, segments: Sequence[Segment], keep_seconds: float
) -> Iterator[tuple[int, Audio | AudioError]]:
    """Yield a recording's segments as they are complete, each with its place in the list.

    What was yielded counts only once the recording has been read to its end without an error.

    Args:
        reader: the recording.
        segments: in any order; they may overlap.
        keep_seconds: of longer segments, no samples are kept.

    Raises:
        AudioError: as `Reader.blocks`. A segment past the end is yielded as one.
    """
    waiting: list[_Cut] = []
    running: list[_Cut] = []
    place = rate = 0
    for block, rate in reader.blocks():
        if not place:
            waiting = _in_order(segments, rate)
        end = place + len(block)
        while waiting and waiting[-1].start < end:
            running.append(waiting.pop())
        for cut in running:
            piece = block[max(0, cut.start - place) : None if cut.end is None else cut.end - place]
            cut.num_samples += len(piece)
            if cut.num_samples <= keep_seconds * rate:
                cut.pieces.append(piece.copy())
            else:
                cut.pieces.clear()
        place = end
        for cut in [cut for cut in running if cut.end is not None and cut.end <= place]:
            running.remove(cut)
            yield cut.index, _whole(cut, rate)
    for cut in running + waiting[::-1]:
        end = place if cut.end is None else cut.end
        if cut.start >= place or end > place + TOLERANCE_SECONDS * rate:
            yield (
                cut.index,
                AudioError(
                    f"{reader.name}: the segment covers {cut.start / rate:.3f} to "
                    f"{end / rate:.3f} s, the file holds {place / rate:.3f} s; correct offset and "
                    "duration"
                ),
            )
        else:
            yield cut.index, _whole(cut, rate)


def _in_order(segments: Sequence[Segment], rate: int) -> list[_Cut]:
    """Return the segments as samples, the first one last."""
    cuts = []
    for index, segment in enumerate(segments):
        start = compute_num_samples(segment.offset_seconds, rate)
        end = None
        if segment.duration_seconds is not None:
            end = start + compute_num_samples(segment.duration_seconds, rate)
        cuts.append(_Cut(index, start, end, []))
    return sorted(cuts, key=lambda cut: -cut.start)


def _whole(cut: _Cut, rate: int) -> Audio:
    samples = np.concatenate([np.empty(0, np.int16), *cut.pieces])
    return Audio(samples, rate, seconds=cut.num_samples / rate)


def read_segment(
    path: Path, name: str, segment: Segment, channel: int | None, keep_seconds: float
) -> Audio:
    """Return one segment of a recording, which is decoded to its end for it.

    Raises:
        AudioError: as `Reader.blocks`, or the file ends before the segment.
    """
    reader = Reader(path, name, channel)
    ((_, found),) = cut_segments(reader, [segment], keep_seconds)
    if isinstance(found, AudioError):
        raise found
    return Audio(found.samples, found.rate_hz, reader.caution, found.seconds)
