"""Where a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from distillery.errors import ModelError


def choose_device(wanted: str) -> str:
    """Return `cuda` or `cpu` for `auto`, else what was asked for.

    Raises:
        ModelError: a GPU was asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("device: 'cuda' was asked for, this machine shows no GPU; use 'auto'")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


@contextlib.contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Let torch use this many CPU threads inside the block.

    Work on single utterances is fastest on one: more threads mostly wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
