"""A model folder as it is published: the files and, beside them, their SHA-256."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from distillery.errors import ModelError
from distillery.files import write_json

DIGESTS_FILE = "sha256.json"


def write_bundle(
    folder: Path,
    target: Path,
    more: Mapping[str, bytes] = {},
) -> str:
    """Copy a model's files into a new folder, add more files and all digests.

    Returns:
        The bundle's digest.
    """
    shutil.copytree(folder, target)
    for name, content in more.items():
        (target / name).write_bytes(content)
    write_json(target / DIGESTS_FILE, _digests(target))
    return bundle_digest(target)


def bundle_digest(folder: Path) -> str:
    """Return the SHA-256 of the list of digests, which stands for the whole bundle."""
    return _sha256(folder / DIGESTS_FILE)


def check_bundle(folder: Path, expected: str | None = None) -> None:
    """Make sure that a bundle holds what was published.

    Args:
        folder: the bundle.
        expected: its digest, where one was recorded elsewhere.

    Raises:
        ModelError: a file is missing, added or changed.
    """
    path = folder / DIGESTS_FILE
    try:
        published: dict[str, str] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        raise ModelError(f"{path}: missing or unreadable; expected a published model") from None
    if expected is not None and bundle_digest(folder) != expected:
        raise ModelError(
            f"{path}: SHA-256 {bundle_digest(folder)[:12]}…, the registry says {expected[:12]}…; "
            "the model was changed after it was registered"
        )
    found = _digests(folder)
    for name in sorted({*published, *found}):
        if published.get(name) != found.get(name):
            raise ModelError(
                f"{folder / name}: SHA-256 {_short(found.get(name))}, expected "
                f"{_short(published.get(name))}; the file is damaged, register the model again"
            )


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != DIGESTS_FILE
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(digest: str | None) -> str:
    return f"{digest[:12]}…" if digest else "(no file)"
