"""Numbers that change while a student trains."""

from __future__ import annotations

import math

from distillery.params.objective import Schedule


def value_at(value: float | Schedule, progress: float) -> float:
    """Return what a setting is at some progress, 0 to 1; a plain number is itself.

    Formula: start + (end - start) · s(p), p = (progress - from) / (until - from) cut to [0, 1];
    s(p) = p for `linear`, (1 - cos πp) / 2 for `cosine`.
    """
    if not isinstance(value, Schedule):
        return value
    phase = (progress - value.from_) / (value.until - value.from_)
    phase = min(1.0, max(0.0, phase))
    if value.shape == "cosine":
        phase = (1 - math.cos(math.pi * phase)) / 2
    return value.start + (value.end - value.start) * phase
