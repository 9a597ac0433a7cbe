"""LibriSpeech: read English, 16 kHz FLAC; its published parts form the splits as params say.

Source: https://www.openslr.org/12 (CC BY 4.0). A chapter is a folder of recordings,
`<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac`, and a list of their texts. They are read
here and not by `torchaudio.datasets.LIBRISPEECH`, which takes dot files for recordings and reads
lists in the encoding of the locale.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from distillery.corpora.archives import fetch_archive
from distillery.corpora.base import Recording, require
from distillery.corpora.lists import read_lines, visible_files
from distillery.errors import CorpusError
from distillery.params.prepare import PrepareParams

URL = "https://www.openslr.org/resources/12"
FOLDER = "LibriSpeech"
SHA256 = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}


def read_librispeech(params: PrepareParams, source: Path) -> Iterator[Recording]:
    """Yield the recordings of the LibriSpeech parts that params name.

    Raises:
        CorpusError: a part is unknown or missing, or a recording has no transcript.
    """
    parts = params.librispeech
    for split, names in (
        ("train", parts.train),
        ("valid", parts.valid),
        ("test", parts.test),
    ):
        for part in names:
            yield from _read_part(params, source, part, split)


def download_librispeech(
    source: Path, part: str, url: str = URL, sha256: str | None = None
) -> None:
    """Download one published part into the source folder.

    Args:
        source: the corpus folder; the part goes to `LibriSpeech/<part>` inside it.
        part: such as `dev-clean`.
        url: the folder that holds `<part>.tar.gz`.
        sha256: the archive's checksum; the published one by default.

    Raises:
        CorpusError: as `fetch_archive`.
    """
    fetch_archive(
        f"{url}/{part}.tar.gz",
        f"{FOLDER}/{part}",
        source / FOLDER / part,
        sha256 or SHA256[part],
    )


def _read_part(params: PrepareParams, source: Path, part: str, split: str) -> Iterator[Recording]:
    if part not in SHA256:
        raise CorpusError(
            f"corpus librispeech: part {part!r} does not exist, expected some of {sorted(SHA256)}; "
            f"correct prepare.librispeech.{split}"
        )
    require(
        source / FOLDER / part,
        params,
        source,
        f"{FOLDER}/{part}/<speaker>/<chapter>/*.flac and *.trans.txt",
        partial(download_librispeech, part=part),
    )
    texts: dict[Path, dict[str, str]] = {}
    for audio in visible_files(source / FOLDER / part, "*/*/*.flac"):
        chapter = audio.parent
        if chapter not in texts:
            texts[chapter] = _transcripts(chapter)
        if audio.stem not in texts[chapter]:
            raise CorpusError(
                f"{source / FOLDER / part}: a recording has no transcript ({audio.stem}), expected "
                "a line in its chapter's .trans.txt; unpack the part again"
            )
        yield Recording(
            utterance_id=audio.stem,
            source_path=audio.relative_to(source).as_posix(),
            speaker=audio.stem.split("-")[0],
            text=texts[chapter][audio.stem],
            split=split,
            audio=audio,
        )


def _transcripts(chapter: Path) -> dict[str, str]:
    """Return the texts of a chapter by utterance."""
    path = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
    try:
        lines = [line.partition(" ") for line in read_lines(path)]
    except FileNotFoundError:
        raise CorpusError(
            f"{path}: no such file, expected a line `UTTERANCE TEXT` for each recording beside it; "
            "unpack the part again"
        ) from None
    return {name: text.strip() for name, _, text in lines if text.strip()}
