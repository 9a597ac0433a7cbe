"""Features without PyTorch: what the kinds have in common, their normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from distillery.data.feature_constants import PRIOR_FRAMES, PRIOR_VARIANCE, VARIANCE_FLOOR
from distillery.params.models import FeatureParams


class NumpyFeatures:
    """Turn one waveform into normalised features, as `Extractor` of data/features.py does."""

    block_frames: int
    """Frames transformed at once."""

    def __init__(self, params: FeatureParams) -> None:
        self.normalise = params.normalise

    def num_frames(self, num_samples: int) -> int:
        """Return the number of feature frames of a waveform."""
        raise NotImplementedError

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        """Return from which sample to before which the frames from `start` to before `stop` read.

        Both may lie outside the recording.
        """
        raise NotImplementedError

    def _logs_between(self, samples: np.ndarray, begin: int, end: int) -> np.ndarray:
        """Return log energies `(feature_frames, mels)` of the frames that read such a span.

        Args:
            samples: `(samples,)`, int16 or float; from the recording's beginning on where `begin`
                is negative, to its end where they are fewer than `end`.
            begin: the first one read.
            end: behind the last one read.
        """
        raise NotImplementedError

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Return the features `(feature_frames, mels)`, float32, of a waveform `(samples,)`."""
        logs = np.concatenate(list(self._logs([waveform])))  # (feature_frames, mels)
        if self.normalise == "running":
            return NormaliserSoFar()(logs)
        axes = (0, 1) if self.normalise == "level" else (0,)
        centred = logs - logs.mean(axis=axes)
        variance = np.square(centred).mean(axis=axes)
        normalised: np.ndarray = centred / np.sqrt(variance + np.float32(VARIANCE_FLOOR))
        return normalised

    def blocks(self, recording: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of a long recording in blocks `(feature_frames, mels)`, in order.

        Together they are what a call gives, but for rounding. Where features are normalised over
        the whole recording, it is gone through twice, and no more than a block is held.

        Args:
            recording: its samples in order, int16 or float32 in [-1, 1), in blocks `(samples,)` of
                any sizes; the features do not depend on these.
        """
        if self.normalise == "running":
            yield from map(NormaliserSoFar(), self._logs(recording))
            return
        mean, deviation = self._statistics(recording)
        for logs in self._logs(recording):
            yield (logs - mean) / deviation

    def _logs(self, recording: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield log energies `(feature_frames, mels)`, `block_frames` at once but for the last."""
        blocks = iter(recording)
        held, held_from, start = next(blocks), 0, 0
        num_frames: int | None = None  # known at the end of the recording
        while num_frames is None or start < num_frames:
            stop = start + self.block_frames
            begin, end = self._span(start, stop)
            read = min(len(held), max(0, begin - held_from))
            parts, held_from = [held[read:]], held_from + read
            num_samples = held_from + len(parts[0])
            while num_samples < end and (block := next(blocks, None)) is not None:
                parts.append(block)
                num_samples += len(block)
            held = np.concatenate(parts) if len(parts) > 1 else parts[0]
            if num_samples < end:
                num_frames = self.num_frames(num_samples)
                stop = min(stop, num_frames)
                begin, end = self._span(start, stop)
            if start < stop:
                yield self._logs_between(held, begin - held_from, end - held_from)
            start = stop

    def _statistics(self, recording: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and deviations that features are normalised by, `(mels,)` or `()`."""
        axes = (0, 1) if self.normalise == "level" else (0,)
        first: np.ndarray | None = None
        count, sums, squares = 0, np.zeros(()), np.zeros(())
        for logs in self._logs(recording):
            first = logs[:1].mean(axis=axes) if first is None else first
            shifted = (logs - first).astype(np.float64)  # so that the squares stay small
            count += shifted.size if self.normalise == "level" else len(shifted)
            sums = sums + shifted.sum(axis=axes)
            squares = squares + np.square(shifted).sum(axis=axes)
        assert first is not None  # every recording has a frame
        mean = sums / count
        variance = np.maximum(squares / count - np.square(mean), 0)
        deviation = np.sqrt(variance + VARIANCE_FLOOR)
        return (first + mean).astype(np.float32), deviation.astype(np.float32)


class NormaliserSoFar:
    """RunningNormaliser of data/normalisation.py, which explains it, block by block."""

    def __init__(self) -> None:
        self.num_frames = 0
        self.first: np.ndarray | None = None  # (mels,)
        self.sums: np.ndarray | None = None  # (mels,)
        self.squares: np.ndarray | None = None  # (mels,)

    def __call__(self, logs: np.ndarray) -> np.ndarray:
        """Return the next frames, normalised: `(feature_frames, mels)` for the same shape."""
        if not len(logs):
            return logs
        self.first = logs[0] if self.first is None else self.first
        shifted = (logs - self.first).astype(np.float64)
        sums, squares = shifted.cumsum(axis=0), np.square(shifted).cumsum(axis=0)
        if self.sums is not None:
            sums, squares = sums + self.sums, squares + self.squares
        seen = self.num_frames + np.arange(1, len(logs) + 1, dtype=np.float64)[:, None]
        self.num_frames += len(logs)
        self.sums, self.squares = sums[-1], squares[-1]
        means = sums / (PRIOR_FRAMES + seen)
        mean_squares = (PRIOR_FRAMES * PRIOR_VARIANCE + squares) / (PRIOR_FRAMES + seen)
        variances = mean_squares - np.square(means)
        normalised: np.ndarray = (shifted - means) / np.sqrt(variances + VARIANCE_FLOOR)
        return normalised.astype(np.float32)
