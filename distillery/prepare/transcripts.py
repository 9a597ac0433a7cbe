"""Transcripts from a table beside the corpus, whatever kind of corpus it is: prepare.transcripts.

A row names a recording by `path`, as the corpus has it, or by `utterance_id`, and says what is
spoken in column `text`; where that is empty the recording stays as it is. So a list that
`make select` wrote can be read at any time, however much of it is filled in.
"""

from __future__ import annotations

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from distillery.corpora.base import Recording
from distillery.corpora.manifest import Row, cell, read_rows, refuse, relative_name
from distillery.errors import CorpusError, ManifestError
from distillery.params.prepare import PrepareParams

PATHS = ("path", "audio_filepath")
"""Columns with a recording's path; the second is NeMo's."""
COLUMNS_WANTED = "path or utterance_id, and text"
NUM_SHOWN_CHARACTERS = 80

logger = logging.getLogger(__name__)


def with_transcripts(
    params: PrepareParams, source: Path, recordings: Sequence[Recording]
) -> list[Recording]:
    """Return the recordings with the transcripts of `prepare.transcripts`, and say how many.

    Args:
        params: names the table.
        source: the corpus folder, in which it lies: DVC thus sees when it changes.
        recordings: of the corpus.

    Raises:
        CorpusError: there is no such table, or the corpus is no folder.
        ManifestError: it cannot be read, or rows that are filled in name no recording, several, or
            one that another row has with another text; all of them are named.
    """
    if params.transcripts is None:
        return list(recordings)
    file = _find(params, source)
    rows = read_rows(file)
    _check_columns(file, rows)
    texts = _texts(file, rows, _Index(source, recordings))
    own = sum(item.text is not None for item in recordings if item.utterance_id in texts)
    logger.info(
        "prepare.transcripts: %s: %d of %d rows are filled in; %d recordings had no transcript, "
        "of %d it takes the place of the corpus's own",
        file,
        sum(cell(row, "text") is not None for row in rows),
        len(rows),
        len(texts) - own,
        own,
    )
    return [
        replace(item, text=texts[item.utterance_id], keeps_text=True)
        if item.utterance_id in texts
        else item
        for item in recordings
    ]


def _find(params: PrepareParams, source: Path) -> Path:
    assert params.transcripts is not None
    if not source.is_dir():
        raise CorpusError(
            f"prepare.transcripts: {params.transcripts!r}, but corpus {params.corpus} is made from "
            f"{source}, which is no folder of recordings; remove the setting"
        )
    file = source / params.transcripts
    if not file.resolve().is_relative_to(source.resolve()):
        raise CorpusError(
            f"prepare.transcripts: {params.transcripts!r} leaves the corpus folder {source}, "
            "expected a file inside, where a change of it is seen; move it there"
        )
    if not file.is_file():
        raise CorpusError(
            f"prepare.transcripts: {file} does not exist; put a CSV, TSV, JSONL or Parquet file "
            f"with {COLUMNS_WANTED} there, or set prepare.transcripts to null"
        )
    return file


def _check_columns(file: Path, rows: Iterable[Row]) -> None:
    found = {column: None for row in rows for column in row.cells}
    if "text" not in found or not {*PATHS, "utterance_id"} & found.keys():
        raise ManifestError(
            f"{file}: holds columns {list(found)}, expected {COLUMNS_WANTED}; add what is missing"
        )


class _Index:
    """Recordings by what a row may call them."""

    def __init__(self, source: Path, recordings: Iterable[Recording]) -> None:
        self._source = source
        self._by_id = {item.utterance_id: item for item in recordings}
        self._by_path: dict[str, list[str]] = defaultdict(list)
        for item in self._by_id.values():
            self._by_path[_composed(item.source_path)].append(item.utterance_id)

    def find(self, row: Row) -> str:
        """Return the id of the recording that a row means.

        Raises:
            ManifestError: there is none, or the path has several.
        """
        path = cell(row, PATHS[0]) or cell(row, PATHS[1])
        utterance_id = cell(row, "utterance_id")
        if path is None and utterance_id is None:
            raise ManifestError(f"{row}: names no recording, expected {COLUMNS_WANTED}")
        there = [] if path is None else self._at(path)
        if path is not None and not there:
            raise ManifestError(
                f"{row}: path {path[:NUM_SHOWN_CHARACTERS]!r} is no recording of the corpus, "
                f"expected one relative to {self._source}; correct it, or remove the row"
            )
        if utterance_id is not None:
            named = utterance_id.strip()
            if named in (there if path is not None else self._by_id):
                return named
            where = f"at {path!r}" if path is not None else "in the corpus"
            raise ManifestError(
                f"{row}: utterance_id {named[:NUM_SHOWN_CHARACTERS]!r} is no recording {where}; "
                "correct it, or remove the row"
            )
        if len(there) > 1:
            raise ManifestError(
                f"{row}: path {path!r} holds {len(there)} recordings ({', '.join(there[:3])}, …), "
                "expected one; say which in a column utterance_id"
            )
        return there[0]

    def _at(self, path: str) -> list[str]:
        """Return the ids of the recordings at a path as it is given, composed as it may be."""
        for name in (path, path.strip(), path.strip().removeprefix("./")):
            try:
                found = self._by_path.get(_composed(relative_name(self._source, name)))
            except (OSError, ValueError):  # it can be no path
                return []
            if found:
                return found
        return []


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _texts(file: Path, rows: Iterable[Row], index: _Index) -> dict[str, str]:
    """Return the transcripts that are filled in, by utterance."""
    texts: dict[str, str] = {}
    first: dict[str, int] = {}
    faults = []
    for row in rows:
        try:
            text = cell(row, "text")
            if text is None:
                continue
            name = index.find(row)
        except ManifestError as error:
            faults.append(str(error))
            continue
        if texts.setdefault(name, text).split() != text.split():
            faults.append(
                f"{row}: utterance {name!r} has another text in row {first[name]}, expected one; "
                "remove one of the rows"
            )
        first.setdefault(name, row.number)
    refuse(file, faults, ManifestError)
    return texts
