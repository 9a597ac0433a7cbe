"""The user's own text files, one sentence a line, spelt as the corpus's transcripts are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.data.manifest import PreparedData
from distillery.data.spelling import spell, without_marks, writes_small_letters
from distillery.data.text import case_of, normalise
from distillery.errors import CorpusError
from distillery.files import read_text
from distillery.params.decoder import DecoderParams

MAX_LEFT_OUT = 0.5
"""Share of a file's lines that may hold letters which the corpus lacks; more is another language,
or another encoding."""
SHOWN = 60
FILES_SETTING = "register.decoder.language_model.files"
LEXICON_SETTING = "register.decoder.lexicon.files"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Line:
    """A line of a file that holds something."""

    number: int
    text: str


def read_texts(root: Path, files: Sequence[str], setting: str, data: PreparedData) -> list[str]:
    """Return the sentences of text files as transcripts would write them.

    A line with letters that no transcript may hold is left out, and such lines are counted.

    Args:
        root: what the paths begin at.
        files: UTF-8, one sentence a line; empty lines count for nothing.
        setting: that names them.
        data: prepared data, whose text rule, spelling and letters hold.

    Raises:
        CorpusError: a file is missing, is not UTF-8, holds no sentence, or one in most of whose
            lines are letters that the corpus lacks.
    """
    return [text for name in files for text in _read(root / name, setting, data)]


def check_decoder_files(root: Path, decoder: DecoderParams | None) -> None:
    """Make sure, before any work, that text files are there and can be read.

    Args:
        root: the workspace.
        decoder: settings that name them; None: there are none.

    Raises:
        CorpusError: one is missing, or is not UTF-8, or holds no sentence.
    """
    if decoder is not None:
        for name in decoder.language_model.files:
            _lines(root / name, FILES_SETTING)
        for name in decoder.lexicon.files:
            _lines(root / name, LEXICON_SETTING)


def _lines(path: Path, setting: str) -> list[_Line]:
    if not path.is_file():
        raise CorpusError(
            f"{setting}: {path}: no such file, expected UTF-8 text, one sentence a line; correct "
            "the path, which begins at the workspace"
        )
    content = read_text(path, CorpusError).splitlines()
    lines = [_Line(number, line.strip()) for number, line in enumerate(content, 1) if line.strip()]
    if not lines:
        raise CorpusError(f"{setting}: {path}: holds no sentence, expected one a line; fill it")
    return lines


def _read(path: Path, setting: str, data: PreparedData) -> list[str]:
    lines, vocabulary = _lines(path, setting), data.vocabulary
    case = case_of(vocabulary)
    cased = writes_small_letters(line.text for line in lines)
    texts, left_out = [], []
    for line in lines:
        written = normalise(spell(line.text, data.spelling, cased), case, vocabulary.characters)
        if vocabulary.unknown(written):
            written = without_marks(written, vocabulary.characters)
        if vocabulary.unknown(written):
            left_out.append((line, sorted(vocabulary.unknown(written))))
        elif written:
            texts.append(written)
    if left_out:
        (first, letters), share = left_out[0], len(left_out) / len(lines)
        said = (
            f"{setting}: {path}: {len(left_out)} of {len(lines)} lines hold characters that "
            f"transcripts may not hold, the first in line {first.number}: "
            f"{first.text[:SHOWN]!r} holds {letters}"
        )
        if share > MAX_LEFT_OUT:
            raise CorpusError(
                f"{said}; expected text in the corpus's language: take another file, set "
                "prepare.spelling so that numbers become words, or extend prepare.alphabet"
            )
        logger.warning("%s; they are left out", said)
    if not texts:
        raise CorpusError(f"{setting}: {path}: none of {len(lines)} lines holds a word; fill it")
    return texts
