"""Whether the frames of a live teacher and those of re-timed targets stand in the same places."""

from __future__ import annotations

import numpy as np

LAGS = range(-3, 4)


def divergence(cached: np.ndarray, live: np.ndarray) -> float:
    """Return the mean KL(cached ‖ live) in nats a frame, of log-probabilities `(frames, vocab)`."""
    return float((np.exp(cached) * (cached - live)).sum(axis=1).mean())


def best_lag(cached: np.ndarray, live: np.ndarray) -> int:
    """Return by how many frames `live` must be moved ahead to come closest to `cached`."""
    assert cached.shape == live.shape

    def at(lag: int) -> float:
        behind, ahead = max(0, lag), max(0, -lag)
        count = len(cached) - abs(lag)
        return divergence(cached[ahead : ahead + count], live[behind : behind + count])

    return min(LAGS, key=at)


def spikes(log_probs: np.ndarray) -> list[tuple[int, int]]:
    """Return frame and token of every frame whose likeliest token is no blank."""
    best = log_probs.argmax(axis=1)
    return [(int(frame), int(best[frame])) for frame in np.flatnonzero(best)]
