"""Files of what a recogniser wrote: tables of many recordings, or a folder with a file for each.

.jsonl, .ndjson   an object a line; .json may be that, too, as NeMo's manifests are
.json             a list of objects, an object by recording, or the answer of one recording
.csv, .tsv        a row a recording; lists of hypotheses as JSON in a cell
.parquet          the same, lists as lists
a folder          NAME.json, NAME.vtt or NAME.srt for the recording NAME, in this order
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distillery.errors import ModelError
from distillery.files import Json, read_text
from distillery.teachers.subtitles import SUFFIXES, read_subtitles
from distillery.teachers.written import LIST_KEYS, TEXT_KEYS, Answer, read_answer

NAME_KEYS = (
    "audio_key",
    "utterance_id",
    "path",
    "audio_filepath",
    "source_path",
    "audio_path",
    "file",
    "filename",
    "file_name",
    "audio",
    "wav",
    "id",
    "utt_id",
    "key",
)
"""Where a row may say which recording it is of; the first that is there counts."""
ANSWER_KEYS = (*TEXT_KEYS, *LIST_KEYS, "segments")
FOLDER_SUFFIXES = (".json", *SUFFIXES)
"""Of files in a folder; where a recording has several, the first."""
NUM_FAULTS_SHOWN = 10
EXPECTED = "a .jsonl, .json, .csv, .tsv or .parquet file, or a folder of .json, .srt or .vtt files"


@dataclass(frozen=True)
class Written:
    """What a recogniser wrote of one recording."""

    name: str
    """Of the recording, as the file has it."""
    where: str
    """File and row, for messages."""
    answer: Answer


def read_written(path: Path, setting: str) -> list[Written]:
    """Return everything that a file or folder holds, in its order.

    Args:
        path: the file or folder.
        setting: what names it, for errors.

    Raises:
        ModelError: it is not there, holds nothing, or rows cannot be used; all of them are counted,
            the first named.
    """
    if not path.exists():
        raise ModelError(f"{setting}: {path} does not exist; expected {EXPECTED}")
    reader = _read_folder if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        raise ModelError(f"{setting}: {path} ends in {path.suffix!r}, expected {EXPECTED}")
    faults: list[str] = []
    found = []
    try:
        for name, where, content in reader(path):
            try:
                named = _name(name, content, where)
                found.append(Written(named, where, read_answer(content, where)))
            except ModelError as error:
                faults.append(str(error))
    except (csv.Error, pa.ArrowException) as error:
        raise ModelError(f"{setting}: {path} cannot be read: {error}") from None
    if len(faults) == 1:
        raise ModelError(faults[0])
    if faults:
        shown = "\n  ".join(faults[:NUM_FAULTS_SHOWN])
        raise ModelError(f"{setting}: {len(faults)} entries cannot be used, the first:\n  {shown}")
    if not found:
        raise ModelError(f"{setting}: {path} holds no texts; expected {EXPECTED}")
    return found


def _name(name: str | None, content: object, where: str) -> str:
    if name is not None:
        return name
    keys = sorted(map(str, content)) if isinstance(content, dict) else []
    for key in NAME_KEYS:
        value = content.get(key) if isinstance(content, dict) else None
        if isinstance(value, dict):  # as Hugging Face's data sets have audio
            value = value.get("path")
        if isinstance(value, str | int) and str(value).strip():
            return str(value).strip()
    raise ModelError(
        f"{where}: holds {keys[:12]}, expected the recording's key, id or path under one of "
        f"{', '.join(NAME_KEYS)}"
    )


# --- one reader for each kind of file -----------------------------------------------------------

Entry = tuple[str | None, str, object]
"""A recording's name, where the file itself has it; file and row; the answer."""


def _read_lines(path: Path) -> Iterator[Entry]:
    for number, line in enumerate(read_text(path, ModelError).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                content = json.loads(line)
            except json.JSONDecodeError as error:
                raise ModelError(f"{where}: no JSON: {error}; expected an object a line") from None
            if not isinstance(content, dict):
                raise ModelError(f"{where}: holds {line.strip()[:60]!r}, expected an object a line")
            yield None, where, content


def _read_json(path: Path) -> Iterator[Entry]:
    try:
        content = json.loads(read_text(path, ModelError))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise ModelError(f"{path}: no JSON: {error}") from None
        yield from _read_lines(path)
        return
    if isinstance(content, list) and any(_has_name(item) for item in content):
        for number, item in enumerate(content):
            yield None, f"{path}, entry {number}", item
    elif isinstance(content, dict) and _has_name(content):
        yield None, str(path), content
    elif isinstance(content, list) or any(key in content for key in ANSWER_KEYS):
        yield path.stem, str(path), content
    else:
        for name, item in content.items():
            yield name, f"{path}, {name!r}", item


def _has_name(content: object) -> bool:
    return isinstance(content, dict) and any(isinstance(content.get(key), str) for key in NAME_KEYS)


def _read_table(path: Path) -> Iterator[Entry]:
    lines = io.StringIO(read_text(path, ModelError), newline="")
    plain = path.suffix.lower() == ".tsv"
    quoting: Any = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    reader = csv.DictReader(lines, delimiter="\t" if plain else ",", quoting=quoting, strict=True)
    for row in reader:
        where = f"{path}, row {reader.line_num}"
        if None in row or None in row.values():
            raise ModelError(
                f"{where}: has another number of cells than the first row, "
                f"{len(reader.fieldnames or ())}; put a text that holds the delimiter into "
                "quotation marks"
            )
        yield None, where, _with_lists(row, where)


def _with_lists(row: Mapping[str, str], where: str) -> Json:
    """Return a row whose lists, JSON in a cell, are lists; empty ones are left out."""
    cells: Json = {key: value for key, value in row.items() if value or key in TEXT_KEYS}
    for key in (*LIST_KEYS, "segments"):
        if key in cells:
            try:
                cells = {**cells, key: json.loads(row[key])}
            except json.JSONDecodeError as error:
                raise ModelError(f"{where}: {key} is no JSON: {error}; expected a list") from None
    return cells


def _read_parquet(path: Path) -> Iterator[Entry]:
    for number, row in enumerate(pq.read_table(path).to_pylist(), start=1):
        yield None, f"{path}, row {number}", row


def _read_folder(path: Path) -> Iterator[Entry]:
    seen: set[str] = set()
    for file in _files(path):
        name = file.relative_to(path).with_suffix("").as_posix()
        if name in seen:
            continue
        seen.add(name)
        if file.suffix.lower() in SUFFIXES:
            yield name, str(file), read_subtitles(file)
            continue
        try:
            yield name, str(file), json.loads(read_text(file, ModelError))
        except json.JSONDecodeError as error:
            raise ModelError(
                f"{file}: no JSON: {error}; expected the answer for one recording, and a table of "
                "many as teacher.file itself"
            ) from None


def _files(folder: Path) -> Sequence[Path]:
    """Return a folder's files of known kinds, none hidden; by name, the better kinds first."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in FOLDER_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    ]
    return sorted(
        found,
        key=lambda path: (
            path.relative_to(folder).with_suffix("").as_posix(),
            FOLDER_SUFFIXES.index(path.suffix.lower()),
        ),
    )


_READERS: Mapping[str, Callable[[Path], Iterator[Entry]]] = {
    ".csv": _read_table,
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".parquet": _read_parquet,
    ".tsv": _read_table,
}
