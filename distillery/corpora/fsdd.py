"""Free Spoken Digit Dataset: isolated English digits, 8 kHz WAV.

Source: https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0). The name of a
recording says it all: `recordings/7_jackson_32.wav` is speaker jackson's take 32 of "seven". Takes
0 to 4 are the official test split; the same speakers stand in both splits, as published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from distillery.corpora.archives import fetch_archive
from distillery.corpora.base import Recording, require
from distillery.corpora.lists import visible_files
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams

URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/HEAD.tar.gz"
LAYOUT = "recordings/{digit}_{speaker}_{take}.wav"
NAME_PATTERN = re.compile(r"(\d)_([A-Za-z0-9-]+)_(\d+)")
DIGITS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
NUM_TEST_TAKES = 5


def read_fsdd(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield the recordings of the Free Spoken Digit Dataset.

    Raises:
        CorpusError: the folder or its recordings are missing, or a file's name is no
            `{digit}_{speaker}_{take}.wav`.
    """
    folder = source / "recordings"
    require(folder, params, source, LAYOUT, download_fsdd)
    paths = list(visible_files(folder, "*.wav"))
    if not paths:
        raise CorpusError(f"{folder}: holds no WAV file, expected {LAYOUT}; put the corpus there")
    for path in paths:
        match = NAME_PATTERN.fullmatch(path.stem)
        if match is None:
            raise CorpusError(
                f"{path}: unexpected name, expected {LAYOUT}; rename or remove the file"
            )
        digit, speaker, take = match.groups()
        yield Recording(
            utterance_id=path.stem,
            source_path=path.relative_to(source).as_posix(),
            speaker=speaker,
            text=DIGITS[int(digit)],
            split="test" if int(take) < NUM_TEST_TAKES else "train",
            audio=path,
        )


def download_fsdd(source: Path, url: str = URL) -> None:
    """Download the public repository into the source folder.

    Raises:
        CorpusError: as `fetch_archive`.
    """
    fetch_archive(url, "free-spoken-digit-dataset-*", source)
