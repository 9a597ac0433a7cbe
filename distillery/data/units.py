"""What errors are counted in: words, characters where a language writes no spaces, or phrases.

Without spaces a whole sentence is one word: every hypothesis with a wrong character would be as bad
as one with none right. The unit is decided once, when data are prepared, and kept with them; the
rate of errors is called by what it is, WER or CER. In JSON and in MLflow its entries are `wer` with
either, so that programs find them.

Where nothing is transcribed, it may be known which phrases a recording holds: what is counted then
is phrases that do not stand in the text, one minus phrase accuracy. Where nothing at all is known,
the teacher's own texts stand for transcripts, and the unit says so wherever a rate is shown:
docs/decisions/0024-no-transcripts.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum

PHRASES_APART = "; "
"""What stands between expected phrases in one text; no normalised text holds a semicolon."""
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
    PHRASE = "phrase"
    """Phrases that a recording holds; an error is one whose words do not stand in the text."""
    TEACHER_WORD = "word vs teacher"
    """Words of the teacher's texts, which stand for transcripts."""
    TEACHER_CHARACTER = "character vs teacher"
    """Characters of the teacher's texts."""

    @property
    def is_vs_teacher(self) -> bool:
        """Whether the teacher's texts are what models are judged by."""
        return self in (Unit.TEACHER_WORD, Unit.TEACHER_CHARACTER)

    @property
    def vs_teacher(self) -> Unit:
        """The same counted in the teacher's texts."""
        return Unit.TEACHER_CHARACTER if self.spells_characters else Unit.TEACHER_WORD

    @property
    def spells_characters(self) -> bool:
        """Whether characters are counted."""
        return self in (Unit.CHARACTER, Unit.TEACHER_CHARACTER)

    def parts(self, text: str) -> list[str]:
        """Return the words of a text, its characters without the spaces, or expected phrases."""
        if self is Unit.PHRASE:
            return [phrase for part in text.split(PHRASES_APART[0]) if (phrase := part.strip())]
        return list("".join(text.split())) if self.spells_characters else text.split()

    def joined(self, parts: Iterable[str]) -> str:
        """Return the text of such parts."""
        if self is Unit.PHRASE:
            return PHRASES_APART.join(parts)
        return ("" if self.spells_characters else " ").join(parts)

    @property
    def plural(self) -> str:
        """`words`, `characters` or `expected phrases`; of the teacher, where they are its."""
        if self is Unit.PHRASE:
            return "expected phrases"
        if self.is_vs_teacher:
            return f"{self.value.split()[0]}s of the teacher's texts"
        return f"{self.value}s"

    @property
    def rate(self) -> str:
        """The short name of the rate of errors, such as `WER`, `CER` or `WER vs teacher`."""
        if self is Unit.PHRASE:
            return "phrase errors"
        short = "CER" if self.spells_characters else "WER"
        return f"{short} vs teacher" if self.is_vs_teacher else short

    @property
    def reference(self) -> str:
        """What models are judged by, where an example shows it."""
        if self is Unit.PHRASE:
            return "expected phrases"
        return "the teacher's text" if self.is_vs_teacher else "reference"

    @property
    def key(self) -> str:
        """The short name of the rate without blanks, for names of metrics."""
        return self.rate.replace(" ", "_")

    @property
    def header(self) -> str:
        """The short name of the rate, broken where it is long, for the head of a column."""
        return self.rate.replace(" ", "\n", 1)

    @property
    def rate_in_words(self) -> str:
        """Its long name."""
        if self is Unit.PHRASE:
            return "share of expected phrases not found"
        if self.is_vs_teacher:
            return f"{self.value.split()[0]} error rate against the teacher's texts"
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
