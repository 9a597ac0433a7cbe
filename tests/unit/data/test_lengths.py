from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distillery.data.lengths import in_batches_by_length


def test_shortest_first_the_newcomer_decides() -> None:
    lengths = [4.0, 1.0, 3.0, 1.0, 9.0]
    order = [1, 3, 2, 0, 4]
    # 2 · 1 s, 3 · 3 s = 9 > 8; then 2 · 4 s = 8; 9 s alone
    assert list(in_batches_by_length(order, lengths, max_padded=8.0)) == [[1, 3], [2, 0], [4]]


def test_longest_first_the_first_decides() -> None:
    lengths = np.array([4.0, 1.0, 3.0, 1.0, 9.0])
    found = in_batches_by_length([4, 0, 2, 1, 3], lengths, max_padded=8.0)
    assert list(found) == [[4], [0, 2], [1, 3]]


def test_a_batch_holds_so_many_items_at_most() -> None:
    assert list(in_batches_by_length(range(5), [1.0] * 5, max_items=2)) == [[0, 1], [2, 3], [4]]
    assert list(in_batches_by_length([], [])) == []


@given(st.lists(st.floats(0, 20), max_size=40), st.floats(1, 50), st.integers(1, 9), st.booleans())
def test_every_item_comes_once_and_no_batch_is_too_large(
    lengths: list[float], max_padded: float, max_items: int, descending: bool
) -> None:
    order = sorted(range(len(lengths)), key=lambda item: lengths[item], reverse=descending)
    found = list(in_batches_by_length(order, lengths, max_padded=max_padded, max_items=max_items))
    assert [item for batch in found for item in batch] == order
    for batch in found:
        assert len(batch) <= max_items
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_padded
    for batch, following in itertools.pairwise(found):  # none ends early
        longest = max(lengths[i] for i in [*batch, following[0]])
        assert len(batch) == max_items or (len(batch) + 1) * longest > max_padded
