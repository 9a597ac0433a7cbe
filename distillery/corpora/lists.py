"""The text lists of corpora, as editors and tools of all kinds leave them, and the files they name.

A list is UTF-8, with or without a byte-order mark, or UTF-16 or UTF-32 with one. Other encodings
cannot be told from each other, so they are refused, with the line. A file is found by its name also
where the two are composed differently, as macOS and Linux compose accents.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from distillery.errors import CorpusError
from distillery.files import read_text


def read_lines(path: Path) -> list[str]:
    """Return a list's lines, blanks at their ends stripped, empty ones left out.

    Raises:
        FileNotFoundError: there is none.
        CorpusError: as `read_text`.
    """
    # Not splitlines: other separators, such as U+2028, may stand in a text.
    lines = read_text(path, CorpusError).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def visible_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield a folder's files that match a pattern, sorted; no dot files, nor what lies in any.

    macOS leaves `._NAME` beside NAME on disks of others: no recordings.
    """
    for path in sorted(folder.glob(pattern)):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def is_apple_double(name: str) -> bool:
    """Return whether a file's name is that of macOS's notes on another file, `._NAME`."""
    return PurePosixPath(name).name.startswith("._")


def find_file(folder: Path, name: str | PurePosixPath) -> Path:
    """Return the path of a file by its name; as given where there is none.

    Args:
        folder: where it lies.
        name: relative to that; accents may be composed otherwise than on the disk.

    Raises:
        OSError, ValueError: it can be no path.
    """
    path = folder / name
    if _exists(path):
        return path
    for form in ("NFC", "NFD"):
        other = folder / unicodedata.normalize(form, str(name))
        if other != path and _exists(other):
            return other
    if str(name).isascii():
        return path
    return _by_parts(folder, PurePosixPath(name)) or path


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _by_parts(folder: Path, name: PurePosixPath) -> Path | None:
    """Return what a mixture of forms names."""
    found = folder
    for part in name.parts:
        if not found.is_dir():
            return None
        wanted = unicodedata.normalize("NFC", part)
        same = [p for p in found.iterdir() if unicodedata.normalize("NFC", p.name) == wanted]
        if not same:
            return None
        found = min(same)
    return found
