"""Speech Commands v0.02: single English words, 16 kHz WAV, official validation and test lists.

Source: https://arxiv.org/abs/1804.03209 (CC BY 4.0), read through
`torchaudio.datasets.SPEECHCOMMANDS`. A speaker is the hash before `_nohash_` in a file's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distillery.corpora.archives import fetch_archive
from distillery.corpora.base import Recording, require
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams

VERSION = "speech_commands_v0.02"
URL = f"http://download.tensorflow.org/data/{VERSION}.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
FOLDER = "SpeechCommands"
LAYOUT = f"{FOLDER}/{VERSION}/ with a folder per word, validation_list.txt and testing_list.txt"
SUBSETS = {"training": "train", "validation": "valid", "testing": "test"}


def read_speechcommands(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield the recordings of Speech Commands, background noise left out.

    Raises:
        CorpusError: the corpus, one of its lists or a listed file is missing.
    """
    require(source / FOLDER / VERSION, params, source, LAYOUT, download_speechcommands)
    from torchaudio.datasets import SPEECHCOMMANDS  # waits here, for it takes two seconds

    for subset, split in SUBSETS.items():
        try:
            dataset = SPEECHCOMMANDS(source, url=VERSION, subset=subset, download=False)
        except FileNotFoundError as error:
            raise CorpusError(
                f"corpus speechcommands: {error.filename} does not exist; {source} must hold "
                f"{LAYOUT}. Unpack the whole archive there"
            ) from None
        for index in range(len(dataset)):
            path, _, word, speaker, number = dataset.get_metadata(index)
            audio = source / FOLDER / path
            yield Recording(
                utterance_id=f"{word}-{speaker}-{number}",
                source_path=audio.relative_to(source).as_posix(),
                speaker=speaker,
                text=word,
                split=split,
                audio=audio,
            )


def download_speechcommands(source: Path, url: str = URL, sha256: str | None = SHA256) -> None:
    """Download the published archive into the source folder.

    Raises:
        CorpusError: as `fetch_archive`.
    """
    fetch_archive(url, "", source / FOLDER / VERSION, sha256)
