"""Whether the frames of a live teacher and those of re-timed targets stand in the same places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

LAGS = range(-3, 4)
Pair = tuple[np.ndarray, np.ndarray]


def divergence(cached: np.ndarray, live: np.ndarray) -> float:
    """Return the mean KL(cached ‖ live) in nats a frame, of log-probabilities `(frames, vocab)`."""
    return float((np.exp(cached) * (cached - live)).sum(axis=1).mean())


def best_lag(cached: np.ndarray, live: np.ndarray) -> int:
    """Return by how many frames `live` must be moved ahead to come closest to `cached`."""
    return common_lag([(cached, live)])


def common_lag(pairs: Sequence[Pair]) -> int:
    """Return the one lag that brings utterances, cached and live, closest to each other."""
    assert all(cached.shape == live.shape for cached, live in pairs)

    def at(lag: int) -> float:
        behind, ahead = max(0, lag), max(0, -lag)
        return sum(
            divergence(cached[ahead : len(cached) - behind], live[behind : len(live) - ahead])
            for cached, live in pairs
        )

    return min(LAGS, key=at)


def stand_in_place(pairs: Iterable[Pair]) -> bool:
    """Return whether targets fit the audio together, and in three of four utterances each.

    A tiny teacher may be late in those that were made hard to hear.
    """
    items = list(pairs)
    alone = [best_lag(*pair) for pair in items]
    return common_lag(items) == 0 and alone.count(0) >= 0.75 * len(alone)


def spikes(log_probs: np.ndarray) -> list[tuple[int, int]]:
    """Return frame and token of every frame whose likeliest token is no blank."""
    best = log_probs.argmax(axis=1)
    return [(int(frame), int(best[frame])) for frame in np.flatnonzero(best)]
