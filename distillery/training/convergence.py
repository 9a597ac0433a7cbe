"""When validation has stopped improving, and so training may end.

What is compared is the rate of errors on the validation split, the mean of the last few epochs:
one epoch's rate is off by points where the split is small, and the lowest of many is luck. It is
not the validation loss, which lies still or rises while the rate falls on: a small network grows
too sure of its errors long before it makes no fewer of them.

Imports no model code: the evaluation asks the same of a curve that was written long ago.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

SMOOTHED_EPOCHS = 5
"""Epochs whose mean rate is compared."""
LEAST_IMPROVEMENT = 0.01
"""Share of the best mean rate by which another must be lower to count as better."""
LEARNT_RATE = 0.9
"""Above this mean rate nothing has been learnt yet: CTC writes blanks first, long on small data."""
LEAST_PATIENCE = 20
"""Epochs without improvement that say nothing yet."""
PATIENCE_SHARE = 0.25
"""And the share of the epochs so far that does not: late improvements are slow ones."""


def patience_at(epoch: int, patience: int | None = None) -> int:
    """Return how many epochs may pass without improvement.

    Args:
        epoch: how many there have been.
        patience: the settings'; None takes the default.
    """
    if patience is not None:
        return patience
    return max(LEAST_PATIENCE, math.ceil(PATIENCE_SHARE * epoch))


def plateaus(rates: Sequence[float], patience: int | None = None) -> Iterator[bool]:
    """Yield for each epoch whether validation had stopped improving by then.

    Formula: m(e) is the mean rate of the last 5 epochs; epoch e is better if m(e) is below 0.99 of
    the lowest m before it; at e there is a plateau if the last better epoch is `patience_at(e)` or
    more back, and m has been below 0.9.

    Args:
        rates: of errors on the validation split after each epoch, as fractions.
        patience: the settings'; None takes the default.
    """
    best, better_at, has_learnt = math.inf, 0, False
    for epoch in range(1, len(rates) + 1):
        window = rates[max(0, epoch - SMOOTHED_EPOCHS) : epoch]
        mean = sum(window) / len(window)
        if mean < (1 - LEAST_IMPROVEMENT) * best:
            best, better_at = mean, epoch
        has_learnt = has_learnt or mean < LEARNT_RATE
        yield has_learnt and epoch - better_at >= patience_at(epoch, patience)


def has_stopped_improving(rates: Sequence[float], patience: int | None = None) -> bool:
    """Return whether validation had stopped improving at the last epoch."""
    return [False, *plateaus(rates, patience)][-1]


def first_plateau(rates: Sequence[float], patience: int | None = None) -> int | None:
    """Return the first epoch, from 1, at which validation had stopped improving; None: none yet."""
    flats = enumerate(plateaus(rates, patience), 1)
    return next((epoch for epoch, flat in flats if flat), None)
