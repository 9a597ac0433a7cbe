"""Files that are either whole or absent: written under another name, synced, then renamed."""

from __future__ import annotations

import codecs
import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from pydantic import TypeAdapter, ValidationError

from distillery.errors import DistilleryError

if TYPE_CHECKING:
    import pyarrow as pa

Json = Mapping[str, object]
"""A JSON object whose entries are somebody else's business: a published model's configuration, a
row of the user's file, or what is only handed on or printed."""

Content = TypeVar("Content")
# UTF-32 first: its mark begins like UTF-16's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
NUM_SHOWN_BYTES = 20


def replace_file(temporary: Path, path: Path) -> None:
    """Give a finished file its name: synced first, then renamed in one step."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a crash leaves the former content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    replace_file(temporary, path)


@contextlib.contextmanager
def whole_text(path: Path) -> Iterator[TextIO]:
    """Yield a UTF-8 file that takes a name when the block ends well; line ends stay as written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what was left by processes that were killed while they wrote a file."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        temporary.unlink(missing_ok=True)


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


def map_file(path: Path) -> pa.Buffer:
    """Return a file's bytes, mapped; no file handle stays open, however many files there are."""
    import pyarrow as pa  # waits here: most of what reads files has no need of it

    with pa.memory_map(str(path)) as mapped:
        return mapped.read_buffer()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_tree(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's, hidden ones not."""
    if path.is_file():
        return digest_of_file(path)
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*"))
    lines = [
        f"{digest_of_file(file)} {name}"
        for name, file in files
        if file.is_file() and not any(part.startswith(".") for part in name.split("/"))
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_text(path: Path, kind: type[DistilleryError]) -> str:
    """Return a user's text, its byte-order mark left out; line ends stay as they are.

    It is UTF-8, with or without a mark, or UTF-16 or UTF-32 with one. Other encodings cannot be
    told from each other.

    Args:
        path: the file.
        kind: of the error.

    Raises:
        FileNotFoundError: there is none.
        DistilleryError: of that kind; it cannot be read, or is in an encoding without a mark that
            is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise kind(f"{path}: cannot be read: {error.strerror}; expected a text file") from None
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        found = content[error.start :].split(b"\n")[0][:NUM_SHOWN_BYTES]
        raise kind(
            f"{path}, line {line}: cannot be read: {found!r} is no {encoding.upper()} "
            f"({error.reason}); save it again as UTF-8"
        ) from None
    if text.count("\0") * 4 > len(text):
        raise kind(
            f"{path}: cannot be read: {text.count(chr(0))} of {len(text)} characters are NUL, as "
            "in UTF-16 without a byte-order mark; save it again as UTF-8"
        )
    return text


@contextlib.contextmanager
def whole_folder(path: Path, *, goes_on: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends well.

    When the block fails, `path` stays as it was and the new folder is removed.

    Args:
        path: the folder.
        goes_on: whether what a block that was stopped or killed left is there in the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    if not goes_on:
        shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(exist_ok=goes_on)
    is_stopped = False
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except BaseException as error:
        is_stopped = not isinstance(error, Exception)  # SIGTERM, Ctrl-C
        raise
    finally:
        if not (goes_on and is_stopped):
            shutil.rmtree(temporary, ignore_errors=True)
