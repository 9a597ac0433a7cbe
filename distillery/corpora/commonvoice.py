"""Common Voice: read sentences in many languages, MP3, official train, dev and test lists.

Source: https://commonvoice.mozilla.org (CC0), one folder per language with `train.tsv`, `dev.tsv`,
`test.tsv` and `clips/`. The lists are read here and not by `torchaudio.datasets.COMMONVOICE`, which
takes a quotation mark at the start of a sentence for CSV quoting and joins the lines after it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from distillery.corpora.base import Recording, listed_file, require
from distillery.errors import CorpusError
from distillery.files import read_text
from distillery.params.prepare import PrepareParams

LAYOUT = "train.tsv, dev.tsv, test.tsv and clips/*.mp3 (one language's folder)"
LISTS = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
COLUMNS = ("client_id", "path", "sentence")
NUM_SHOWN = 3


def read_commonvoice(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield the recordings of one language of Common Voice.

    Raises:
        CorpusError: a list, one of its columns or clips are missing, or a list names a file outside
            the corpus.
    """
    for split, name in LISTS.items():
        require(source / name, params, source, LAYOUT, download_commonvoice)
        rows = _read_list(source / name)
        clips = [_clip_path(source, row["path"]) for row in rows]
        if missing := [clip.name for clip in clips if not clip.is_file()]:
            raise CorpusError(
                f"{source / 'clips'}: {len(missing)} of {len(clips)} clips in {name} are missing, "
                f"the first {missing[:NUM_SHOWN]}; unpack the whole archive there"
            )
        for row, clip in zip(rows, clips, strict=True):
            yield Recording(
                utterance_id=clip.stem,
                source_path=clip.relative_to(source).as_posix(),
                speaker=row["client_id"],
                text=row["sentence"],
                split=split,
                audio=clip,
            )


def download_commonvoice(source: Path) -> None:
    """Say how to get the corpus: its terms must be accepted by a person.

    Raises:
        CorpusError: always.
    """
    raise CorpusError(
        f"corpus commonvoice: {source} must hold {LAYOUT}, and cannot be downloaded from here; "
        "accept the terms at https://commonvoice.mozilla.org, then unpack the archive there"
    )


def _read_list(path: Path) -> list[dict[str, str]]:
    lines = io.StringIO(read_text(path, CorpusError), newline="")
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
    try:
        found = list(reader.fieldnames or ())
        if missing := [name for name in COLUMNS if name not in found]:
            raise CorpusError(
                f"{path}: columns {missing} are missing, found {found}; restore the published file"
            )
        return list(reader)
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {reader.line_num}: cannot be read: {error}; restore the published file"
        ) from None


def _clip_path(source: Path, name: str) -> Path:
    return listed_file(source, f"clips/{name.removesuffix('.mp3')}.mp3")
