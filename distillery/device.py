"""Where a model runs."""

from __future__ import annotations

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
