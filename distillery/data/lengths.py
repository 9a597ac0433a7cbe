"""Batches of items of like lengths: little of them is padding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np


def in_batches_by_length(
    order: Iterable[int],
    lengths: Sequence[float] | np.ndarray,
    *,
    max_padded: float = math.inf,
    max_items: float = math.inf,
) -> Iterator[list[int]]:
    """Yield batches of positions, one after the other in the order given.

    Args:
        order: positions, from the shortest item to the longest or the other way round.
        lengths: of the item at each position.
        max_padded: length of a batch, each item counting as long as its longest; an item that is
            longer is a batch by itself.
        max_items: of a batch.
    """
    batch: list[int] = []
    longest = 0.0
    for position in order:
        longest = max(longest, lengths[position])
        is_full = len(batch) == max_items or (len(batch) + 1) * longest > max_padded
        if batch and is_full:
            yield batch
            batch, longest = [], lengths[position]
        batch.append(position)
    if batch:
        yield batch
