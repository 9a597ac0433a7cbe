"""How pre-trained models hear audio: resampled, and long audio cut into pieces with context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torchaudio
from torch import Tensor

from distillery.errors import ModelError
from distillery.params.teacher import PretrainedTeacherParams
from distillery.teachers.backend import Backend


@dataclass(frozen=True)
class Piece:
    """A stretch of one utterance that the model hears at once, and the frames that are kept."""

    row: int
    start: int
    """First sample."""
    stop: int
    """Sample behind the last one."""
    skip: int
    """Frames of context in front, thrown away."""
    keep: int
    """Frames kept; those behind them are context, too."""


@dataclass(frozen=True)
class Hearing:
    """How long audio is cut, and how texts are searched."""

    chunk_seconds: float | None
    """Longer audio is cut into pieces of so much; None: it is refused."""
    context_seconds: float
    """Heard on either side of a piece, and thrown away."""
    longest_seconds: float
    """Most that the model takes at once."""
    num_hypotheses: int = 1
    """Texts of an utterance, where it gives texts."""
    beam_size: int = 1
    """Beams of the search for them."""

    @classmethod
    def of(cls, params: PretrainedTeacherParams) -> Hearing:
        """Return what settings say."""
        return cls(**{name: getattr(params, name) for name in cls.__dataclass_fields__})


def plan_pieces(row: int, num_samples: int, backend: Backend, hearing: Hearing) -> list[Piece]:
    """Return the pieces of one utterance; together they keep each of its frames once.

    Pieces start at whole frames, so that their frames lie where those of the whole would.

    Args:
        row: its place in the batch.
        num_samples: its length at the model's rate.
        backend: for the distance between frames and what each hears.
        hearing: how long pieces and their context are.
    """
    hop, window = backend.samples_per_frame, backend.window_samples
    frames = num_frames(num_samples, backend)
    rate = backend.sample_rate_hz
    size = frames
    if hearing.chunk_seconds is not None:
        size = max(1, round(hearing.chunk_seconds * rate / hop))
    if frames <= size:
        return [Piece(row, 0, num_samples, 0, frames)]
    context = round(hearing.context_seconds * rate / hop)
    pieces = []
    for first in range(0, frames, size):
        last = min(first + size, frames)
        begin, end = max(0, first - context), min(frames, last + context)
        stop = num_samples if end == frames else (end - 1) * hop + window
        pieces.append(Piece(row, begin * hop, stop, first - begin, last - first))
    return pieces


def num_frames(num_samples: int, backend: Backend) -> int:
    """Return the frames that so many samples at the model's rate give."""
    return max(0, (num_samples - backend.window_samples) // backend.samples_per_frame + 1)


def resampled(waveform: Tensor, rate_hz: int, target_hz: int) -> Tensor:
    """Return float samples `(samples,)` at another rate."""
    if rate_hz == target_hz:
        return waveform
    changed: Tensor = _resampler(rate_hz, target_hz)(waveform)
    return changed


@lru_cache(maxsize=4)
def _resampler(rate_hz: int, target_hz: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate_hz, target_hz)


def check_lengths(waveforms: Sequence[np.ndarray], sample_rate_hz: int, max_seconds: float) -> None:
    """Make sure that Whisper can take each waveform `(samples,)` at once.

    Raises:
        ModelError: one is longer.
    """
    for waveform in waveforms:
        seconds = len(waveform) / sample_rate_hz
        if seconds > max_seconds:
            raise ModelError(
                f"teacher: an utterance lasts {seconds:.2f} s, Whisper hears at most "
                f"{max_seconds:g} s at once; set prepare.max_duration_seconds to "
                f"{max_seconds:g} or less, or cut the recordings"
            )
