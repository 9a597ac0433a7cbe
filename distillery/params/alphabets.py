"""Alphabets of the largest languages in Latin script, for data without transcripts.

The letters are those that Unicode CLDR lists as a language's main exemplar characters, with the
whole of a to z added where CLDR keeps foreign letters apart, `è` and `ê` for Dutch, and the
apostrophe for all.

Source: Unicode CLDR, common/main/*.xml, exemplarCharacters, https://cldr.unicode.org
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

LATIN = "abcdefghijklmnopqrstuvwxyz'"
TONES = ("", "\u0300", "\u0309", "\u0303", "\u0301", "\u0323")
"""Vietnamese marks of tone; each of its twelve vowels bears any of them."""


def _vietnamese() -> str:
    vowels = "aăâeêioôơuưy"
    marked = [unicodedata.normalize("NFC", vowel + tone) for vowel in vowels for tone in TONES]
    return "đ" + "".join(letter for letter in marked if letter not in LATIN)


BEYOND_LATIN: Mapping[str, str] = {
    "de": "äöüß",
    "en": "",
    "es": "áéíóúüñ",
    "fr": "àâæçéèêëîïôœùûüÿ",
    "id": "",
    "it": "àéèìóòù",
    "nl": "áäéëèêíïóöúü",
    "pl": "ąćęłńóśźż",
    "pt": "áàâãçéêíóòôõú",
    "ro": "ăâîșț",
    "sv": "åäöé",
    "sw": "",
    "tr": "çğıöşü",
    "vi": _vietnamese(),
}
"""By the language's ISO 639-1 code: letters beside a to z and the apostrophe."""


def alphabet_of(language: str, case: str = "lower") -> str | None:
    """Return the characters that texts in a language hold; None where it is not listed.

    Args:
        language: its ISO 639-1 code.
        case: what texts are written in; `keep` has both.
    """
    if language not in BEYOND_LATIN:
        return None
    lower = LATIN + BEYOND_LATIN[language]
    capitals = "".join(upper for c in lower if len(upper := c.upper()) == 1)
    chosen = {"lower": lower, "upper": capitals}.get(case, lower + capitals)
    return "".join(dict.fromkeys(chosen))
