"""Texts of recordings that are too long to go through a network at once: in windows that overlap.

A network's memory grows with its input, attention's with the square of it: an exported Conformer
took 6.9 GB for eight minutes. So what is longer than MAX_WHOLE_SECONDS goes through in windows of
WINDOW_SECONDS, of which the outer parts only give context to what is kept. Features are normalised
over the whole recording, as ever.

    convolutions          the context is all that an output can hear: the text is that of the whole
    attention, recurrence an output could hear the whole recording; here it hears CONTEXT_SECONDS
                          at least on either side, more than most of what the network was trained on
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from distillery.data.text import Vocabulary
from distillery.models.decoding import collapsed
from distillery.serve.normalised_features import NumpyFeatures

MAX_WHOLE_SECONDS = 60.0
"""Longer recordings are gone through in windows."""
WINDOW_SECONDS = 20.0
"""Of which all is kept; the context comes on top."""
CONTEXT_SECONDS = 5.0
"""On either side, for networks that could hear everything."""
FRONT_REACH_FRAMES = 12
"""Feature frames that the two convolutions in front of separable blocks hear, at most."""

Run = Callable[[np.ndarray], np.ndarray]
"""Features `(1, feature_frames, mels)` to scores or log-probabilities `(1, frames, vocab)`."""
Sound = np.ndarray | Iterable[np.ndarray]
"""A recording at a student's rate, int16 or float32 in [-1, 1): its samples `(samples,)`, or, where
it is long, blocks of them in order, which may be gone through twice; `Recording` has them."""


@dataclass(frozen=True)
class Layout:
    """What of an architecture decides how windows overlap; entries of config.json."""

    type: str
    """Its name in params.yaml."""
    time_reduction: int
    """Feature frames per output frame."""
    num_blocks: int = 0
    """Separable blocks."""
    kernel_size: int = 0
    """Output frames that each of them hears."""
    lookahead_frames: int = 0
    """Output frames that one of a network that streams waits for."""

    def context_frames(self, hop_seconds: float) -> int:
        """Return the feature frames that a window has on either side of what is kept.

        Args:
            hop_seconds: from one feature frame to the next.
        """
        if self.type in ("separable_conv", "causal_conv"):
            # A causal block hears all of its kernel on one side.
            each = self.kernel_size // 2 if self.type == "separable_conv" else self.kernel_size - 1
            front = -(-FRONT_REACH_FRAMES // self.time_reduction)
            return (self.num_blocks * each + front) * self.time_reduction
        return self.whole_frames(CONTEXT_SECONDS, hop_seconds)

    def whole_frames(self, seconds: float, hop_seconds: float) -> int:
        """Return a duration in feature frames, those of whole output frames."""
        return max(1, round(seconds / hop_seconds / self.time_reduction)) * self.time_reduction


def is_long(num_samples: int, sample_rate_hz: int) -> bool:
    """Return whether a recording goes through a network in windows."""
    return num_samples > MAX_WHOLE_SECONDS * sample_rate_hz


def is_short(sound: Sound, sample_rate_hz: int) -> TypeGuard[np.ndarray]:
    """Return whether a recording's samples go through a network at once."""
    return isinstance(sound, np.ndarray) and not is_long(len(sound), sample_rate_hz)


def blocks_of(sound: Sound) -> Iterable[np.ndarray]:
    """Return a recording in blocks `(samples,)`: its own, or all samples as one."""
    return [sound] if isinstance(sound, np.ndarray) else sound


def scores_in_windows(
    recording: Iterable[np.ndarray],
    extractor: NumpyFeatures,
    layout: Layout,
    hop_seconds: float,
    run: Run,
) -> Iterator[np.ndarray]:
    """Yield what a network says of a recording, `(frames, vocab)` from each window, in order.

    Memory does not depend on the recording's length.

    Args:
        recording: its samples in order, int16 or float32 in [-1, 1), in blocks `(samples,)` of any
            sizes; gone through once or twice.
        extractor: makes their features.
        layout: of the network.
        hop_seconds: from one feature frame to the next.
        run: the network.
    """
    kept = layout.whole_frames(WINDOW_SECONDS, hop_seconds)
    context = layout.context_frames(hop_seconds)
    for features, start, stop in _windows(extractor.blocks(recording), kept, context):
        scores = run(features[None])[0]  # (frames, vocab)
        yield scores[start // layout.time_reduction : -(-stop // layout.time_reduction)]


def long_text(scores: Iterable[np.ndarray], vocabulary: Vocabulary) -> str:
    """Return the greedy transcript of a recording in windows, spelt with a network's tokens.

    Args:
        scores: of `scores_in_windows`; no more than one window's are held.
        vocabulary: the tokens.
    """
    best = [window.argmax(axis=-1) for window in scores]
    return vocabulary.decode(collapsed(np.concatenate(best)))


def _windows(
    blocks: Iterator[np.ndarray], kept: int, context: int
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield windows `(feature_frames, mels)`, and where what is kept of each starts and stops.

    Args:
        blocks: the features, in order.
        kept: feature frames kept of each window.
        context: feature frames on either side of them.
    """
    held, held_from = next(blocks), 0
    for begin in itertools.count(0, kept):
        first, end = max(0, begin - context), begin + kept + context
        parts = [held[first - held_from :]]
        held_from = first
        while sum(map(len, parts)) < end - first and (block := next(blocks, None)) is not None:
            parts.append(block)
        held = np.concatenate(parts)
        num_frames = first + len(held)  # so far; all of them once `end` is not reached
        if begin >= num_frames:
            return
        yield held[: end - first], begin - first, min(begin + kept, num_frames) - first
