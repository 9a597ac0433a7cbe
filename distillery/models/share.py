"""Which rows of a batch this process takes, where several train one network together.

What is drawn for a row must not depend on how many processes there are. So each draws for the whole
batch, from generators that are in the same state everywhere, and keeps what falls on its own rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Rows of a batch."""

    rows: Sequence[int]
    """Positions of one's own, one at least."""
    num_rows: int
    """Of the whole batch."""
    counts: bool = True
    """False where the batch has too few rows for all processes: this one then takes a row that is
    another's, so that it takes part in what all must, and nothing of it counts."""

    def own(self, drawn: Tensor) -> Tensor:
        """Return one's own of what was drawn for all rows, `(…, rows)`."""
        return drawn[..., list(self.rows)]


_taken: Share | None = None


@contextmanager
def taking(share: Share | None) -> Iterator[None]:
    """Let what runs in the block know its share; None: it has the whole batch."""
    global _taken
    before, _taken = _taken, share
    try:
        yield
    finally:
        _taken = before


def taken() -> Share | None:
    """Return the share that this code runs for, None where it has the whole batch."""
    return _taken
