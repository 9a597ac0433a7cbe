"""AN4, CMU's "census" database: spelled words, numbers, dates and commands, 16 kHz.

Source: https://github.com/cmusphinx/an4 (BSD-style licence). `etc/an4_{train,test}.fileids` lists
the utterances, `etc/an4_{train,test}.transcription` holds a line `TEXT (utterance)` for each, with
or without `<s> </s>`; audio lies under `wav/` (as published) or `flac/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from distillery.corpora.archives import fetch_archive
from distillery.corpora.base import Recording, listed_file, require
from distillery.corpora.lists import read_lines
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams

URL = "https://github.com/cmusphinx/an4/archive/HEAD.tar.gz"
LAYOUT = "etc/an4_{train,test}.{fileids,transcription} and audio under wav/ or flac/"
AUDIO_KINDS = ("wav", "flac")
LINE_PATTERN = re.compile(r"(.*)\((\S+)\)\s*")
NUM_SHOWN = 3


def read_an4(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield the recordings of AN4, its official test split kept.

    Raises:
        CorpusError: lists or audio are missing, a list names a file outside the corpus, or a listed
            utterance has no transcript.
    """
    require(source / "etc", params, source, LAYOUT, download_an4)
    for split in ("train", "test"):
        file_ids = _lines(source / "etc" / f"an4_{split}.fileids")
        texts = _transcripts(source / "etc" / f"an4_{split}.transcription")
        paths = {file_id: _audio_path(source, file_id) for file_id in file_ids}
        if missing := [file_id for file_id, path in paths.items() if path is None]:
            raise CorpusError(
                f"{source}: {len(missing)} of {len(paths)} {split} utterances have no audio under "
                f"wav/ or flac/, the first {missing[:NUM_SHOWN]}; unpack the whole corpus there"
            )
        for file_id, path in paths.items():
            assert path is not None
            utterance_id = file_id.rsplit("/", 1)[-1]
            if utterance_id not in texts:
                raise CorpusError(
                    f"{source}/etc/an4_{split}.transcription: no line for {utterance_id!r}, "
                    "expected one for every listed utterance; restore the published file"
                )
            yield Recording(
                utterance_id=utterance_id,
                source_path=path.relative_to(source).as_posix(),
                speaker=path.parent.name,
                text=texts[utterance_id],
                split=split,
                audio=path,
            )


def download_an4(source: Path, url: str = URL) -> None:
    """Download the public repository into the source folder.

    Raises:
        CorpusError: as `fetch_archive`.
    """
    fetch_archive(url, "an4-*", source)


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file; the folder must hold {LAYOUT}") from None


def _transcripts(path: Path) -> dict[str, str]:
    texts = {}
    for number, line in enumerate(_lines(path), start=1):
        match = LINE_PATTERN.fullmatch(line)
        if match is None:
            raise CorpusError(f"{path}: line {number} is {line[:60]!r}, expected TEXT (utterance)")
        text, utterance_id = match.groups()
        texts[utterance_id] = text.replace("<s>", "").replace("</s>", "").strip()
    return texts


def _audio_path(source: Path, file_id: str) -> Path | None:
    candidates = (listed_file(source, f"{kind}/{file_id}.{kind}") for kind in AUDIO_KINDS)
    return next((path for path in candidates if path.is_file()), None)
