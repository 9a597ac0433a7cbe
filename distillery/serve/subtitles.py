"""Words with times as subtitles: SRT, as players have it, and WebVTT (W3C).

A cue ends at a pause, and is no longer than two lines and seven seconds, which one can read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from distillery.data.units import Unit
from distillery.decoder.words import Word

LINE_CHARACTERS, MAX_LINES = 42, 2
MAX_CUE_SECONDS = 7.0
MIN_CUE_SECONDS = 1.0
"""A shorter one stays on the screen for so long, or until the next."""
PAUSE_SECONDS = 0.8
VTT_HEADER = "WEBVTT\n\n"


@dataclass(frozen=True)
class Cue:
    """What is on the screen at once."""

    start: float
    """Seconds."""
    end: float
    text: str
    """In lines."""


def cues_of(words: Iterable[Word], unit: Unit = Unit.WORD) -> Iterator[Cue]:
    """Yield words as cues.

    Args:
        words: of a recording, in order.
        unit: what they are: characters stand without spaces.
    """
    before: Cue | None = None
    for group in _groups(words, unit):
        text = unit.joined(word.text for word in group)
        cue = Cue(group[0].start, group[-1].end, "\n".join(textwrap.wrap(text, LINE_CHARACTERS)))
        if before is not None:
            yield _held(before, cue.start)
        before = cue
    if before is not None:
        yield _held(before, before.start + MIN_CUE_SECONDS)


def _groups(words: Iterable[Word], unit: Unit) -> Iterator[Sequence[Word]]:
    group: list[Word] = []
    for word in words:
        if group:
            text = unit.joined(item.text for item in (*group, word))
            is_full = len(textwrap.wrap(text, LINE_CHARACTERS)) > MAX_LINES
            is_long = word.end - group[0].start > MAX_CUE_SECONDS
            if is_full or is_long or word.start - group[-1].end > PAUSE_SECONDS:
                yield group
                group = []
        group.append(word)
    if group:
        yield group


def _held(cue: Cue, latest: float) -> Cue:
    """Return a cue that stays long enough to be read, but no longer than until `latest`."""
    return replace(cue, end=max(cue.end, min(cue.start + MIN_CUE_SECONDS, latest)))


def srt(number: int, cue: Cue) -> str:
    """Return a cue as SRT has it; numbers begin with 1."""
    times = f"{_time(cue.start, ',')} --> {_time(cue.end, ',')}"
    return f"{number}\n{times}\n{cue.text}\n\n"


def vtt(cue: Cue) -> str:
    """Return a cue as WebVTT has it, behind VTT_HEADER."""
    return f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{cue.text}\n\n"


def _time(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
