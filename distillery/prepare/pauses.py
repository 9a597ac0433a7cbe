"""Where a long recording is cut, from the probability of speech in each of its frames.

Everything here counts in frames of the detector (32 ms); nothing reads audio.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPEECH_BEGINS = 0.5
"""Probability from which on a frame begins speech, as the detector's authors advise."""
SPEECH_ENDS = 0.35
"""Probability below which it ends: theirs, too."""
PAD_SECONDS = 0.2
"""What is kept of a pause on either side: soft consonants are found late."""
MIN_SPEECH_SECONDS = 0.1
"""Less speech is a click."""
MIN_PAUSE_SECONDS = 0.1
"""A shorter silence is the closure of a consonant: it is cut there only for lack of a pause."""
MIDDLE = 0.25
"""Share of a stretch without a pause at either end in which it is not cut."""


@dataclass(frozen=True)
class Piece:
    """A stretch of speech."""

    start: float
    """In frames, what is kept of the pause before it included."""
    end: float
    num_speech: int
    """Frames of speech in it."""
    is_forced: bool
    """Whether it ends inside speech, for there was no pause in time."""


@dataclass(frozen=True)
class _Run:
    """Frames that belong together: stretches of speech, and the pauses between them."""

    stretches: Sequence[tuple[int, int]]
    is_forced: bool = False

    @property
    def start(self) -> int:
        return self.stretches[0][0]

    @property
    def end(self) -> int:
        return self.stretches[-1][1]


def find_pieces(
    probabilities: np.ndarray, frame_seconds: float, max_seconds: float, min_silence: float
) -> list[Piece]:
    """Return what utterances become, in order; they do not overlap.

    Every pause of `min_silence` parts two of them. One that is still too long is cut at a shorter
    pause, a wide one near its middle if there is one; where there is none at all, where speech is
    least probable.

    Args:
        probabilities: float32 `(frames,)`, of speech.
        frame_seconds: length of a frame.
        max_seconds: of an utterance.
        min_silence: seconds.
    """
    pad = min(PAD_SECONDS, max_seconds / 8) / frame_seconds
    longest = max(1, math.floor(max_seconds / frame_seconds - 2 * pad))
    runs: list[_Run] = []
    for run in _joined(_stretches(probabilities), min_silence / frame_seconds):
        runs.extend(_cut(run, probabilities, longest, MIN_PAUSE_SECONDS / frame_seconds))
    pieces = []
    for index, run in enumerate(runs):
        before = runs[index - 1].end if index else -math.inf
        after = runs[index + 1].start if index + 1 < len(runs) else math.inf
        pieces.append(
            Piece(
                max(0.0, run.start - min(pad, (run.start - before) / 2)),
                min(float(len(probabilities)), run.end + min(pad, (after - run.end) / 2)),
                sum(end - start for start, end in run.stretches),
                run.is_forced,
            )
        )
    return pieces


def _stretches(probabilities: np.ndarray) -> list[tuple[int, int]]:
    """Return where speech begins and ends, as first frame and the one behind the last."""
    marks = np.zeros(len(probabilities), np.int8)
    marks[probabilities >= SPEECH_BEGINS] = 1
    marks[probabilities < SPEECH_ENDS] = -1
    known = np.flatnonzero(marks)  # between the two bounds, frames go on with what was before
    is_speech = np.zeros(len(probabilities) + 1, bool)
    if len(known):
        last = np.searchsorted(known, np.arange(len(probabilities)), side="right") - 1
        is_speech[:-1] = (last >= 0) & (marks[known[np.maximum(last, 0)]] > 0)
    changes = np.flatnonzero(np.diff(is_speech.astype(np.int8), prepend=0))
    return [(int(a), int(b)) for a, b in zip(changes[::2], changes[1::2], strict=True)]


def _joined(stretches: Sequence[tuple[int, int]], min_silence: float) -> list[_Run]:
    """Return stretches with no pause of `min_silence` frames between them, as one each."""
    groups: list[list[tuple[int, int]]] = []
    for stretch in stretches:
        if groups and stretch[0] - groups[-1][-1][1] < min_silence:
            groups[-1].append(stretch)
        else:
            groups.append([stretch])
    return [_Run(group) for group in groups]


def _cut(run: _Run, probabilities: np.ndarray, longest: int, min_pause: float) -> list[_Run]:
    """Return a run in parts of at most `longest` frames."""
    done: list[_Run] = []
    todo = [run]
    while todo:
        run = todo.pop()
        if run.end - run.start <= longest:
            done.append(run)
        else:
            todo.extend(reversed(_halves(run, probabilities, min_pause)))
    return done


def _halves(run: _Run, probabilities: np.ndarray, min_pause: float) -> tuple[_Run, _Run]:
    """Return the two parts of a run that is too long."""
    gaps = [
        start - end for (_, end), (start, _) in zip(run.stretches, run.stretches[1:], strict=False)
    ]
    if gaps:
        is_forced = max(gaps) < min_pause
        places = [i for i, gap in enumerate(gaps, start=1) if is_forced or gap >= min_pause]
        place = max(places, key=lambda i: gaps[i - 1] * math.sqrt(_shorter_side(run, i)))
        first = _Run(run.stretches[:place], is_forced)
        return first, _Run(run.stretches[place:], run.is_forced)
    margin = int((run.end - run.start) * MIDDLE)
    within = probabilities[run.start + margin : run.end - margin]
    frame = run.start + margin + (int(np.argmin(within)) if len(within) else 0)
    frame = min(max(frame, run.start + 1), run.end - 1)
    return _Run([(run.start, frame)], True), _Run([(frame, run.end)], run.is_forced)


def _shorter_side(run: _Run, place: int) -> int:
    """Return the frames of the shorter part of a run that is cut before a stretch."""
    return min(run.stretches[place - 1][1] - run.start, run.end - run.stretches[place][0])
