"""Speech Commands v0.02: single English words, 16 kHz WAV, official validation and test lists.

Source: https://arxiv.org/abs/1804.03209 (CC BY 4.0). A speaker is the hash before `_nohash_` in a
file's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distillery.corpora.archives import fetch_archive
from distillery.corpora.base import Recording, listed_file, require
from distillery.corpora.lists import read_lines, visible_files
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams

VERSION = "speech_commands_v0.02"
URL = f"http://download.tensorflow.org/data/{VERSION}.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
FOLDER = "SpeechCommands"
LAYOUT = f"{FOLDER}/{VERSION}/ with a folder per word, validation_list.txt and testing_list.txt"
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
NOISE = "_background_noise_"
MARK = "_nohash_"
NUM_SHOWN = 3


def read_speechcommands(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield the recordings of Speech Commands, background noise left out.

    Raises:
        CorpusError: the corpus, one of its lists or a listed file is missing.
    """
    require(source / FOLDER / VERSION, params, source, LAYOUT, download_speechcommands)
    folder = source / FOLDER / VERSION
    split_of = {name: split for split in LISTS for name in _listed(source, folder, split)}
    for path in visible_files(folder, "*/*.wav"):
        if path.parent.name == NOISE or MARK not in path.name:
            continue
        speaker, _, number = path.name.split(".")[0].partition(MARK)
        word = path.parent.name
        yield Recording(
            utterance_id=f"{word}-{speaker}-{int(number) if number.isdecimal() else number}",
            source_path=path.relative_to(source).as_posix(),
            speaker=speaker,
            text=word,
            split=split_of.pop(path, "train"),
            audio=path,
        )
    if split_of:
        missing = sorted(path.relative_to(folder).as_posix() for path in split_of)
        raise CorpusError(
            f"corpus speechcommands: {len(missing)} listed recordings do not exist in {folder}, "
            f"the first {missing[:NUM_SHOWN]}; unpack the whole archive there"
        )


def _listed(source: Path, folder: Path, split: str) -> list[Path]:
    """Return the recordings that the list of a split names."""
    path = folder / LISTS[split]
    try:
        return [listed_file(folder, name) for name in read_lines(path)]
    except FileNotFoundError:
        raise CorpusError(
            f"corpus speechcommands: {path} does not exist; {source} must hold {LAYOUT}. Unpack "
            "the whole archive there"
        ) from None


def download_speechcommands(source: Path, url: str = URL, sha256: str | None = SHA256) -> None:
    """Download the published archive into the source folder.

    Raises:
        CorpusError: as `fetch_archive`.
    """
    fetch_archive(url, "", source / FOLDER / VERSION, sha256)
