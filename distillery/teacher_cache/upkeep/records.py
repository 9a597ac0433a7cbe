"""Where namespaces lie in a cache, and where records lie in their shards."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distillery.errors import CacheError
from distillery.teacher_cache.namespace import DIGEST_CHARACTERS
from distillery.teacher_cache.shards import Index

READ_BYTES = 2**20
Progress = Callable[[int], object]
"""Called with how much more is done."""


def namespace_folders(root: Path) -> list[Path]:
    """Return the folders of all namespaces, damaged ones included, sorted.

    Raises:
        CacheError: there is none.
    """
    names = re.compile(f"[0-9a-f]{{{DIGEST_CHARACTERS}}}")
    folders = sorted(p for p in root.glob("*") if p.is_dir() and names.fullmatch(p.name))
    if not folders:
        raise CacheError(f"{root}: holds no namespace; run make cache")
    return folders


def folder_bytes(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def record_ends(index: Index, hidden_width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where records start, where their hidden states do, and where they end, in bytes."""
    starts = index.column("offset_bytes")
    middles = starts + index.column("num_bytes")
    frames = index.column("num_frames").astype(np.int64)
    return starts, middles, middles + 2 * hidden_width * frames
