"""The audio that a registered version learnt from, so that it is never judged on it.

A bundle keeps the first 64 bits of each audio key, of the training and the validation split, as an
array of NumPy: eight bytes an utterance, from which no audio can be got back.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from distillery.errors import ModelError

TRAINED_ON_FILE = "trained_on.npy"
KEY_LENGTH = 16
"""Hexadecimal digits."""


def pack_keys(keys: Iterable[str], before: np.ndarray | None = None) -> bytes:
    """Return the file for audio keys, in whatever order they come.

    Args:
        keys: of the utterances that a model was trained or validated on.
        before: what the model that it started from learnt from, as `read_keys` returns it.
    """
    found = _numbers(list(keys))
    found = np.unique(found if before is None else np.concatenate([found, before]))
    buffer = io.BytesIO()
    np.save(buffer, found, allow_pickle=False)
    return buffer.getvalue()


def read_keys(folder: Path) -> np.ndarray | None:
    """Return what a bundle says that its model learnt from, uint64 `(utterances,)`.

    None where it does not say: versions of old do not.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / TRAINED_ON_FILE
    if not path.exists():
        return None
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); register the model again") from None
    if found.dtype != np.uint64 or found.ndim != 1:
        raise ModelError(
            f"{path}: holds {found.dtype} {found.shape}, expected uint64 (utterances,); register "
            "the model again"
        )
    return found


def are_among(keys: Sequence[str], heard: np.ndarray) -> np.ndarray:
    """Return for each audio key whether a model learnt from it, bool `(utterances,)`."""
    return np.isin(_numbers(keys), heard)


def _numbers(keys: Sequence[str]) -> np.ndarray:
    return np.array([int(key[:KEY_LENGTH], 16) for key in keys], dtype=np.uint64)
