"""Subtitles as a recogniser writes them: SubRip (SRT) and WebVTT.

Sources: W3C, "WebVTT: The Web Video Text Tracks Format" (blocks, times, tags, character
references); SubRip has no standard, its blocks are WebVTT's with a comma in times. What is no text
of a cue (numbers, NOTE, STYLE, REGION, settings of a cue, tags, voices) is left out.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import Json, read_text

SUFFIXES = (".vtt", ".srt")
ARROW = "-->"
NUM_SHOWN_CHARACTERS = 60
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{2})[.,](\d{3})"
_TIMES = re.compile(rf"\s*{_TIME}\s+-->\s+{_TIME}(?:\s.*)?")
_TAG = re.compile(
    r"</?(?:[bicuv]|lang|ruby|rt|font|s)\b[^<>]*>|<[\d:.]+>|\{\\[^{}]*\}", re.IGNORECASE
)


def read_subtitles(path: Path) -> list[Json]:
    """Return a file's cues as segments: `text`, and `start` and `end` in seconds.

    Raises:
        ModelError: the file cannot be read, or a cue's times are none; the message names the line.
    """
    text = read_text(path, ModelError).replace("\r\n", "\n").replace("\r", "\n")
    segments: list[Json] = []
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        if ARROW not in lines[number] or _in_note(lines, number):
            number += 1
            continue
        start, end = _times(lines[number], f"{path}, line {number + 1}")
        said = []
        number += 1
        while number < len(lines) and lines[number].strip():
            said.append(html.unescape(_TAG.sub("", lines[number])).strip())
            number += 1
        segments.append({"text": " ".join(filter(None, said)), "start": start, "end": end})
    if not segments and text.strip() and not text.startswith("WEBVTT"):
        first = text.strip()[:NUM_SHOWN_CHARACTERS]
        raise ModelError(
            f"{path}: begins with {first!r}, expected cues with times, {ARROW} between"
        )
    return segments


def _in_note(lines: list[str], number: int) -> bool:
    """Return whether a line belongs to a comment, whose block begins with NOTE."""
    while number > 0 and lines[number - 1].strip():
        number -= 1
    return bool(re.match(r"NOTE(\s|$)", lines[number]))


def _times(line: str, where: str) -> tuple[float, float]:
    match = _TIMES.fullmatch(line)
    if match is None:
        raise ModelError(
            f"{where}: {line.strip()[:NUM_SHOWN_CHARACTERS]!r} are no times of a cue, expected "
            "00:00:01.000 --> 00:00:02.500"
        )
    parts = [int(part or 0) for part in match.groups()]
    start, end = (
        3600 * hours + 60 * minutes + seconds + thousandths / 1000
        for hours, minutes, seconds, thousandths in (parts[:4], parts[4:])
    )
    return start, end
