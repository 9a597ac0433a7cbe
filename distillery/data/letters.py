"""One form for what is written in several: the part of the text rule that looks beyond ASCII.

    folded      forms of a letter that mean the letter, by their Unicode decomposition: full and
                half width, presentation forms, mathematical letters, ligatures (`ﬁ`, `ĳ`), Roman
                numbers. Not superscripts, fractions and circled numbers, which mean something else
                (`10²` is no 102), nor letters of an orthography: Thai and Lao `ำ`, Armenian `և`,
                Hangul `ㄱ`
    dropped     what is not seen: format characters (soft hyphen, zero width space, word joiner,
                marks of direction, byte-order mark), variation selectors, fillers; and Arabic's
                tatweel
    signs       kept inside a word, if the alphabet has them: ZWJ and ZWNJ next to a virama, ZWNJ
                between Arabic letters, the middle dot of Catalan (`col·lecció`) and Gascon (`n·h`),
                Hebrew's gershayim (`צה״ל`), also where a quotation mark was typed for it
    reading     Hebrew points and Arabic tashkeel, which most texts go without: dropped unless the
                alphabet has them

Combining marks of other scripts are letters' parts and stay. Source: Unicode Standard Annexes 15
(normalisation forms) and 31 (where ZWJ and ZWNJ make a difference).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

APOSTROPHES = "’‘ʼ`´‛＇՚᾽׳"
ZWNJ, ZWJ, MIDDLE_DOT, GERSHAYIM = "\u200c", "\u200d", "·", "״"
SIGNS = frozenset((ZWNJ, ZWJ, MIDDLE_DOT, GERSHAYIM))
READING_MARKS = "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u0652\u0670"
READING_MARKS += "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
FOLDED = frozenset(
    ("<wide>", "<narrow>", "<initial>", "<medial>", "<final>", "<isolated>", "<font>", "<vertical>")
)
UNFOLDED = re.compile("[\u0587\u0e33\u0eb3\u0edc\u0edd\u3131-\u318e]")
"""Letters of an orthography that Unicode could write as two."""
RADICALS = re.compile("[\u2e80-\u2fdf]")
INVISIBLE = re.compile(
    "[\u034f\u0640\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
"""What is dropped and no format character by its category."""
SPACES = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u3164\U000110bd\U000110cd]")
"""Signs before numbers and the like, which are visible, and a filler as wide as a letter."""
VIRAMA = 9
"""Its canonical combining class."""
JOINED = ("ARABIC ", "SYRIAC ")
"""How the names of letters begin that change with their neighbours."""

_PRIMES = re.compile(r"(?<=[^\W\d_])[′‵](?=[^\W\d_])")
_DOTS = re.compile("[·‧∙⋅•]")
_JOINERS = re.compile(f"[{ZWNJ}{ZWJ}]+")
_QUOTES = re.compile("״|''|[\"”]")
_HEBREW = re.compile("[\u0591-\u05bd\u05bf-\u05c7\u05d0-\u05f2]+")
_READING = re.compile(f"[{READING_MARKS}]")
_SARA_AM = re.compile("(?:\u0e4d([\u0e48-\u0e4b]?)\u0e32|\u0ecd([\u0ec8-\u0ecb]?)\u0eb2)")


class _Forms(dict[int, str]):
    """What becomes of each character wherever it stands, found out as it occurs."""

    def __missing__(self, code: int) -> str:
        self[code] = form = _form(chr(code))
        return form


def _form(character: str) -> str:
    if character in SIGNS:
        return character
    if character in APOSTROPHES:
        return "'"
    category = unicodedata.category(character)
    if SPACES.match(character):
        return " "
    if category in ("Cf", "Me") or INVISIBLE.match(character):
        return ""
    tag, *codes = unicodedata.decomposition(character).split() or [""]
    is_letter = category in ("Lu", "Ll", "Lt", "Lm", "Lo", "Nl") or bool(RADICALS.match(character))
    folded = tag in FOLDED or (tag == "<compat>" and is_letter)
    if folded and not UNFOLDED.match(character):
        return "".join(_form(chr(int(code, 16))) for code in codes)
    return character


_FORMS = _Forms()


def in_one_form(text: str, alphabet: Collection[str] | None) -> str:
    """Return a text with everything that has several forms in one, by the rules above.

    Args:
        text: in Unicode's normal form C.
        alphabet: the characters that texts may hold; None: those of the texts.
    """
    text = text.translate(_FORMS)
    text = _READING.sub(lambda found: found[0] if found[0] in (alphabet or ()) else "", text)
    text = unicodedata.normalize("NFC", text)
    text = _SARA_AM.sub(_with_sara_am, text)
    text = _PRIMES.sub("'", text)
    text = _DOTS.sub(_dot, text)
    text = _QUOTES.sub(_gershayim, text)
    text = _JOINERS.sub(_joiner, text)
    if alphabet is None:
        return text
    for sign in SIGNS.difference(alphabet):
        text = text.replace(sign, "")
    return text


def _with_sara_am(found: re.Match[str]) -> str:
    """Return one letter for the two signs that some keyboards write it with."""
    return f"{found[1]}\u0e33" if found[0][0] == "\u0e4d" else f"{found[2]}\u0eb3"


def _around(found: re.Match[str]) -> tuple[str, str]:
    return found.string[: found.start()][-1:], found.string[found.end() :][:1]


def _dot(found: re.Match[str]) -> str:
    """Return a middle dot where it belongs to a word, else a space."""
    before, after = (character.lower() for character in _around(found))
    inside = (before, after) == ("l", "l") or (before in ("n", "s") and after == "h")
    return MIDDLE_DOT if inside else " "


def _gershayim(found: re.Match[str]) -> str:
    """Return gershayim where they belong to a Hebrew word, else a space, or apostrophes as found.

    Other quotation marks stand for them before a word's last letter alone: elsewhere they quote.
    """
    before, after = found.string[: found.start()][-1:], found.string[found.end() :]
    rest = _HEBREW.match(after)
    if rest is not None and _HEBREW.match(before):
        typed = found[0] in ("״", "''")
        letters = [c for c in rest[0] if unicodedata.category(c) == "Lo"]
        ends = not re.match(r"[\w״'\"”]", after[rest.end() :])
        if letters and (typed or (len(letters) == 1 and ends)):
            return GERSHAYIM
    return found[0] if found[0] == "''" else " "


def _joiner(found: re.Match[str]) -> str:
    """Return ZWJ or ZWNJ where the script needs it, else nothing."""
    sign, (before, after) = found[0][0], _around(found)
    if not before:
        return ""
    if unicodedata.combining(before) == VIRAMA:
        return sign if sign == ZWJ or _is_text(after) else ""
    if after and unicodedata.combining(after) == VIRAMA:
        return sign if _is_text(before) else ""
    between = all(_is_text(c) and unicodedata.name(c).startswith(JOINED) for c in (before, after))
    return sign if sign == ZWNJ and between else ""


def _is_text(character: str) -> bool:
    """Return whether it is a letter or a mark; nothing is not."""
    return bool(character) and unicodedata.category(character)[0] in "LM"
