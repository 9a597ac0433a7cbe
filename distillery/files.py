"""Files that are either whole or absent: written under another name, synced, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

Json = Mapping[str, object]
"""A JSON object whose entries are somebody else's business: a published model's configuration, a
row of the user's file, or what is only handed on or printed."""

Content = TypeVar("Content")


def replace_file(temporary: Path, path: Path) -> None:
    """Give a finished file its name: synced first, then renamed in one step."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the former content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    replace_file(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, keys sorted, so that equal content has equal bytes."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: Path, kind: type[Content]) -> Content:
    """Read a JSON file of ours as the frozen class that says what it holds.

    Entries that the class does not know are left out.

    Args:
        path: the file.
        kind: a dataclass.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or an entry is missing or of another type.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(f"{where}{first['msg']}") from None


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends well.

    When the block fails, `path` stays as it was and the new folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
