"""What errors are counted in: words, or characters where a language writes no spaces.

Without spaces a whole sentence is one word: every hypothesis with a wrong character would be as bad
as one with none right. The unit is decided once, when data are prepared, and kept with them; the
rate of errors is called by what it is, WER or CER. In JSON and in MLflow its entries are `wer` with
either, so that programs find them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum

WITHOUT_SPACES = re.compile(
    "(CJK|IDEOGRAPHIC|HIRAGANA|KATAKANA|HENTAIGANA|BOPOMOFO|THAI|LAO|KHMER|MYANMAR|TIBETAN|YI"
    "|TAI|NEW TAI|JAVANESE|BALINESE) "
    "|KATAKANA-HIRAGANA "
)
"""How Unicode's names of letters begin in scripts that put no spaces between words."""


class Unit(StrEnum):
    """What texts are counted in."""

    WORD = "word"
    CHARACTER = "character"

    def parts(self, text: str) -> list[str]:
        """Return the words of a text, or its characters without the spaces."""
        return text.split() if self is Unit.WORD else list("".join(text.split()))

    def joined(self, parts: Iterable[str]) -> str:
        """Return the text of such parts."""
        return (" " if self is Unit.WORD else "").join(parts)

    @property
    def plural(self) -> str:
        """`words` or `characters`."""
        return f"{self.value}s"

    @property
    def rate(self) -> str:
        """The short name of the rate of errors: `WER` or `CER`."""
        return "WER" if self is Unit.WORD else "CER"

    @property
    def rate_in_words(self) -> str:
        """Its long name."""
        return f"{self.value} error rate"


def unit_of(characters: Mapping[str, int]) -> Unit:
    """Return what a language is counted in, by the script of most of its letters.

    Args:
        characters: of all transcripts: how often each. Without letters the unit is the word.
    """
    letters = without = 0
    for character, count in characters.items():
        if unicodedata.category(character)[0] == "L":
            letters += count
            without += count * bool(WITHOUT_SPACES.match(unicodedata.name(character, "")))
    return Unit.CHARACTER if 2 * without > letters else Unit.WORD
