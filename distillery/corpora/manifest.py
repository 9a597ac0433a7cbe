"""The user's own recordings: a CSV, TSV, JSONL or Parquet file beside the audio.

Columns: `path` (relative to the folder); optional `text` (empty, null or no such column =
unlabelled), `speaker`, `split` (train, valid, test; empty = decided here), `utterance_id` and
`expected`: phrases that are spoken, in any order, as JSON or with semicolons between. NeMo's JSON
lines are read as well: `audio_filepath` stands for `path`, and `offset` with `duration` (seconds)
for a part of a file. Text is taken literally: "null" and "nan" are words. TSV knows no quoting,
CSV does.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, SupportsFloat

import pyarrow as pa
import pyarrow.parquet as pq

from distillery.corpora.base import UTTERANCE_ID_PATTERN, Recording, fold_speaker
from distillery.corpora.columns import COLUMNS_WANTED, check_columns
from distillery.corpora.lists import find_file, is_apple_double
from distillery.corpora.segments import Segment
from distillery.data.manifest import SPLITS
from distillery.data.units import PHRASES_APART
from distillery.errors import CorpusError, DistilleryError, ManifestError
from distillery.files import Json, read_text
from distillery.params.prepare import PrepareParams

NUM_SHOWN = 3
NUM_FAULTS_SHOWN = 20
NUM_SHOWN_CHARACTERS = 80

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row of the user's file."""

    number: int
    """As an editor shows it."""
    cells: Json
    """By column, of whatever types the file has."""

    def __str__(self) -> str:
        return f"row {self.number}"


def read_manifest(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield the recordings that the user's manifest lists.

    Raises:
        CorpusError: the manifest or listed audio is missing, or a speaker is in the test split and
            in another one.
        ManifestError: the file cannot be read, lacks columns, or a row breaks a rule: a path that
            leaves the folder, an unknown split, an unfit or repeated id, a segment that is none.
            All such rows are named, the first NUM_FAULTS_SHOWN with what is wrong.
    """
    file = source / params.manifest
    if not file.is_file():
        raise CorpusError(
            f"corpus manifest: {file} does not exist; put a CSV, TSV, JSONL or Parquet file with "
            f"{COLUMNS_WANTED} there, or correct prepare.source and prepare.manifest"
        )
    rows = read_rows(file)
    check_columns(file, {column: None for row in rows for column in row.cells})
    recordings = _recordings(file, source, rows)
    _check_audio(file, source, recordings)
    _check_speakers(file, recordings)
    yield from (recording for _, recording in recordings)


# --- files -------------------------------------------------------------------------------------


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a user's table, of whatever kind its name says.

    Raises:
        ManifestError: it cannot be read, or holds no row.
    """
    readers: dict[str, Callable[[Path], list[Row]]] = {
        ".csv": partial(_read_delimited, delimiter=",", quoting=csv.QUOTE_MINIMAL),
        ".tsv": partial(_read_delimited, delimiter="\t", quoting=csv.QUOTE_NONE),
        ".jsonl": _read_json_lines,
        ".json": _read_json_lines,
        ".parquet": _read_parquet,
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ManifestError(
            f"{file}: ends in {file.suffix!r}, expected one of {sorted(readers)}; convert the file"
        )
    try:
        rows = reader(file)
    except (csv.Error, pa.ArrowException) as error:
        raise ManifestError(f"{file}: cannot be read: {error}; save it again as UTF-8") from None
    if not rows:
        raise ManifestError(f"{file}: holds no rows, expected one per recording")
    return rows


def _read_delimited(file: Path, delimiter: str, quoting: Any) -> list[Row]:
    content = read_text(file, ManifestError)
    header = content.partition("\n")[0]
    if delimiter == "," and "," not in header and ";" in header:
        delimiter = ";"  # what spreadsheets write where a comma marks decimals
    lines = io.StringIO(content, newline="")
    reader = csv.DictReader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    rows = []
    unfit = []
    for row in reader:
        if None in row or None in row.values():
            found = sum(value is not None for key, value in row.items() if key is not None)
            found += len(row.get(None) or ())  # surplus cells
            unfit.append(f"row {reader.line_num}: holds {found} cells")
        rows.append(Row(reader.line_num, row))
    if unfit:
        raise ManifestError(
            f"{file}: {len(unfit)} rows cannot be used, the first: {'; '.join(unfit[:NUM_SHOWN])}; "
            f"expected {len(reader.fieldnames or ())}; put a text that holds the delimiter into "
            "quotation marks, and write the delimiter after an empty cell, too"
        )
    return rows


def _read_json_lines(file: Path) -> list[Row]:
    rows = []
    faults = []
    for number, line in enumerate(read_text(file, ManifestError).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            faults.append(f"row {number}: not valid JSON: {error}; expected one object per line")
            continue
        if isinstance(row, dict):
            rows.append(Row(number, row))
        else:
            holds = type(row).__name__
            faults.append(f"row {number}: holds {holds}, expected an object per line")
    refuse(file, faults, ManifestError)
    return rows


def _read_parquet(file: Path) -> list[Row]:
    return [Row(*pair) for pair in enumerate(pq.read_table(file).to_pylist(), start=1)]


def refuse(file: Path, faults: Sequence[str], kind: type[DistilleryError]) -> None:
    """Raise all faults of a file's rows as one error; say nothing where there is none."""
    if not faults:
        return
    if len(faults) == 1:
        raise kind(f"{file}, {faults[0]}")
    lines = [f"{file}: {len(faults)} rows cannot be used:", *faults[:NUM_FAULTS_SHOWN]]
    if len(faults) > NUM_FAULTS_SHOWN:
        lines.append(f"and {len(faults) - NUM_FAULTS_SHOWN} more")
    raise kind("\n  ".join(lines))


# --- rows --------------------------------------------------------------------------------------


def _recordings(file: Path, source: Path, rows: list[Row]) -> list[tuple[int, Recording]]:
    """Return what each row stands for.

    Raises:
        ManifestError: rows break a rule, or repeat an id; all of them are named.
    """
    recordings: list[tuple[int, Recording]] = []
    faults = []
    seen: dict[str, int] = {}
    for row in rows:
        try:
            recording = _recording(source, row)
        except ManifestError as error:
            faults.append(str(error))
            continue
        first = seen.setdefault(recording.utterance_id, row.number)
        if first != row.number:
            faults.append(
                f"{row}: utterance {recording.utterance_id!r} ({recording.source_path}) "
                f"is already in row {first}; ids must be unique"
            )
        recordings.append((row.number, recording))
    refuse(file, faults, ManifestError)
    kept = [pair for pair in recordings if not is_apple_double(pair[1].source_path)]
    if len(kept) < len(recordings):
        logger.warning(
            "%s: %d rows name files ._… of macOS, which are no recordings; they are left out",
            file,
            len(recordings) - len(kept),
        )
    return kept


def _recording(source: Path, row: Row) -> Recording:
    given = cell(row, "path") or cell(row, "audio_filepath")
    if given is None:
        raise ManifestError(f"{row}: path is empty, expected an audio file in {source}")
    name, audio = _inside(row, source, given)
    split = (cell(row, "split") or "").strip() or None
    if split is not None and split not in SPLITS:
        raise ManifestError(
            f"{row}: split {split!r}, expected one of {list(SPLITS)}, or empty where prepare "
            "should decide"
        )
    segment = _segment(row)
    utterance_id = cell(row, "utterance_id")
    if utterance_id is not None and not re.fullmatch(UTTERANCE_ID_PATTERN, utterance_id):
        raise ManifestError(
            f"{row}: utterance_id {utterance_id!r}, expected {UTTERANCE_ID_PATTERN}; "
            "rename it, or leave the column out"
        )
    return Recording(
        utterance_id=utterance_id or derive_id(name, segment),
        source_path=name,
        speaker=cell(row, "speaker"),
        text=cell(row, "text"),
        split=split,
        audio=audio,
        segment=None if segment is None else Segment(*segment),
        expected=_expected(row),
    )


def _expected(row: Row) -> tuple[str, ...]:
    """Return the phrases that must stand in a row's text; of a JSON object its values."""
    value: object = row.cells.get("expected")
    if isinstance(value, str) and (content := _json_of(value)) is not None:
        try:
            value = json.loads(content)
        except json.JSONDecodeError as error:
            raise ManifestError(
                f"{row}: expected is no JSON: {error}; write a list of phrases, or phrases with "
                "semicolons between"
            ) from None
    if value is None or isinstance(value, str):
        value = (cell(row, "expected") or "").split(PHRASES_APART[0]) if value else []
    phrases = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(phrases, list):
        raise ManifestError(
            f"{row}: expected is {value!r}, which are no phrases; write a JSON list of texts, or "
            "phrases with semicolons between"
        )
    said = [p for p in phrases if not (p is None or (isinstance(p, str) and not p.strip()))]
    for phrase in said:
        if not isinstance(phrase, str) or not any(c.isalnum() for c in phrase):
            raise ManifestError(
                f"{row}: expected holds {phrase!r}, which is no phrase; write words or remove it"
            )
    return tuple(said)


def _json_of(value: str) -> str | None:
    """Return a cell's JSON, also where a spreadsheet quoted it in a TSV; None where it is none."""
    value = value.strip()
    if value.startswith(('"[', '"{')) and value.endswith((']"', '}"')):
        value = value[1:-1].replace('""', '"')
    return value if value.startswith(("[", "{")) else None


def derive_id(path: str, segment: tuple[float, float | None] | None = None) -> str:
    """Return an utterance id that depends on a row's own path and segment alone.

    Args:
        path: as in the manifest.
        segment: offset and duration in seconds.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", PurePosixPath(path).with_suffix("").as_posix())
    digest = hashlib.sha256(f"{path}\0{segment}".encode()).hexdigest()
    return f"{readable[-100:]}-{digest[:10]}"


def cell(row: Row, column: str) -> str | None:
    """Return a cell's text; null where it is absent, empty or blank."""
    value = row.cells.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise ManifestError(
            f"{row}: {column} is {value!r} ({type(value).__name__}), expected text; quote it"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ManifestError(
            f"{row}: {column} holds half a character ({value[:NUM_SHOWN_CHARACTERS]!r}), "
            "expected Unicode text; correct it"
        )
    return value


def _inside(row: Row, source: Path, given: str) -> tuple[str, Path]:
    """Return the name, relative to the folder, and the path of a file that a row may name.

    Missing ones are counted later.
    """
    name, found = given, source
    try:
        name = relative_name(source, given)
        allowed = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if allowed:
            found = find_file(source, name)  # says what is no path: NUL, a loop of links, too long
            if not found.exists() and find_file(source, name.strip()).exists():
                name = name.strip()
                found = find_file(source, name)
    except (OSError, ValueError) as error:
        shown = name if len(name) <= NUM_SHOWN_CHARACTERS else f"{name[:NUM_SHOWN_CHARACTERS]}…"
        raise ManifestError(
            f"{row}: path {shown!r} cannot be one: {_reason(error)}; correct it"
        ) from None
    if not allowed or not found.resolve().is_relative_to(source.resolve()):
        raise ManifestError(
            f"{row}: path {given!r} leaves the folder {source}; put the audio there and give the "
            "path relative to it"
        )
    if not PurePosixPath(name).name:
        raise ManifestError(f"{row}: path {given!r} is the folder, expected an audio file in it")
    return name, found


def relative_name(source: Path, given: str) -> str:
    """Return a path relative to the folder, also of an absolute one inside, as NeMo writes them."""
    path = Path(given)
    if not path.is_absolute():
        return given
    for inner, outer in (
        (Path(os.path.normpath(path)), Path(os.path.normpath(source.absolute()))),
        (path.resolve(), source.resolve()),
    ):
        if inner.is_relative_to(outer):
            return inner.relative_to(outer).as_posix()
    return given


def _reason(error: Exception) -> str:
    """Return what is wrong without the path, which may be long."""
    return error.strerror or "" if isinstance(error, OSError) else str(error)[:NUM_SHOWN_CHARACTERS]


def _segment(row: Row) -> tuple[float, float | None] | None:
    """Return offset and duration in seconds; null for a whole file."""
    if row.cells.get("offset") in (None, ""):
        return None
    offset = _seconds(row, "offset")
    duration = None if row.cells.get("duration") in (None, "") else _seconds(row, "duration")
    if duration == 0:
        raise ManifestError(f"{row}: duration is 0, expected seconds above 0; remove the row")
    return offset, duration


def _seconds(row: Row, column: str) -> float:
    value = row.cells[column]
    try:
        seconds = float(value) if isinstance(value, str | SupportsFloat) else math.nan
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ManifestError(f"{row}: {column} is {value!r}, expected seconds from 0 up")
    return seconds


# --- checks over all rows ----------------------------------------------------------------------


def _check_audio(file: Path, source: Path, recordings: list[tuple[int, Recording]]) -> None:
    missing = [
        f"row {number}: {recording.source_path}"
        for number, recording in recordings
        if not find_file(source, recording.source_path).is_file()
    ]
    if missing:
        raise CorpusError(
            f"{file}: {len(missing)} of {len(recordings)} audio files do not exist, the first: "
            f"{'; '.join(missing[:NUM_SHOWN])}; put them there or remove the rows"
        )


def _check_speakers(file: Path, recordings: list[tuple[int, Recording]]) -> None:
    in_test = {
        fold_speaker(r.speaker): number
        for number, r in recordings
        if r.speaker and r.split == "test"
    }
    faults: dict[str, str] = {}
    for number, recording in recordings:
        speaker = fold_speaker(recording.speaker or "")
        if recording.split in ("train", "valid") and speaker in in_test and speaker not in faults:
            faults[speaker] = (
                f"row {number}: speaker {recording.speaker!r} is in split {recording.split} here "
                f"and in split test in row {in_test[speaker]}, expected one side; move the rows, "
                "or leave the speaker column empty if that is intended"
            )
    refuse(file, list(faults.values()), CorpusError)
