"""Numbers, ordinals, years, amounts and measures in the words of a language.

Numbers come from num2words, names of currencies and units with their plurals, signs of decimals and
thousands, and months from CLDR, by Babel: what a language has in either is had here. What num2words
cannot say is said digit by digit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cached_property, lru_cache
from typing import Any

NUM2WORDS = {"nb": "no", "nn": "no"}
"""Languages that num2words has under another code."""
UNITS: Mapping[str, str] = {
    "%": "concentr-percent",
    "‰": "concentr-permille",
    "°C": "temperature-celsius",
    "°F": "temperature-fahrenheit",
    "°": "angle-degree",
    "km": "length-kilometer",
    "cm": "length-centimeter",
    "mm": "length-millimeter",
    "kg": "mass-kilogram",
    "mg": "mass-milligram",
    "km/h": "speed-kilometer-per-hour",
}
"""What is written behind a number, and what CLDR calls it."""
LARGEST = 10**15
"""Amounts from here on are no amounts."""
POINTS = {"es": "coma", "it": "virgola"}
"""What is said before decimals, where num2words has another word."""
CURRENCIES: Mapping[str, str] = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY", "₹": "INR"}
YEARS = (range(1100, 2000), range(2010, 2100))
"""Numbers that are said as years are, in languages that say these otherwise."""


class NoLanguage(ValueError):
    """A language that numbers cannot be said in."""


class Spoken:
    """What a language says for what is written in digits."""

    def __init__(self, language: str) -> None:
        """Find the language.

        Args:
            language: its code, such as `en`, `nl` or `pt_BR`.

        Raises:
            NoLanguage: num2words or CLDR has none of that code.
        """
        from babel import Locale, UnknownLocaleError

        code = language.replace("-", "_")
        self._code = NUM2WORDS.get(code, code)
        if self._code not in known_languages():
            raise NoLanguage(
                f"language {language!r}, expected one of {', '.join(known_languages())}"
            )
        try:
            self._locale = Locale.parse("nb" if self._code == "no" else self._code)
        except (UnknownLocaleError, ValueError):
            raise NoLanguage(f"language {language!r} is not in CLDR, as Babel has it") from None
        self.language = self._locale.language

    def digits(self, text: str) -> str:
        """Return digits, each by itself; what is between them is left out."""
        return " ".join(self._digits[int(digit)] for digit in text if digit in "0123456789")

    @cached_property
    def _digits(self) -> tuple[str, ...]:
        return tuple(str(self._say(digit, "cardinal")) for digit in range(10))

    def cardinal(self, number: int | Decimal) -> str:
        """Return a number, whole or with decimals, as `twenty one` or `three point five`."""
        whole, _, decimals = str(number).partition(".")
        if decimals and self._point:
            return f"{self.cardinal(int(whole))} {self._point} {self.digits(decimals)}"
        return self._say(number, "cardinal") or self.digits(str(number))

    @cached_property
    def _point(self) -> str | None:
        """What is said before decimals, by num2words where it knows."""
        from num2words import CONVERTER_CLASSES

        word = POINTS.get(self.language) or getattr(
            CONVERTER_CLASSES[self._code], "pointword", None
        )
        return word if isinstance(word, str) and word.isalpha() else None

    def year(self, number: int) -> str:
        """Return a number as years are said: 1970 is `nineteen seventy`."""
        said = self._say(number, "year") or self.cardinal(number)
        return said.replace(" ", "") if self.language == "nl" else said

    def plain(self, number: int) -> str:
        """Return a whole number, as a year where it may be one."""
        return (
            self.year(number) if any(number in years for years in YEARS) else self.cardinal(number)
        )

    def ordinal(self, number: int) -> str:
        """Return `twenty first` for 21; the cardinal where num2words has no ordinals."""
        return self._say(number, "ordinal") or self.cardinal(number)

    def measure(self, number: int | Decimal, sign: str) -> str:
        """Return a number with its unit.

        Args:
            number: how many.
            sign: one of `UNITS`.
        """
        from babel.units import format_unit

        written = str(format_unit(number, UNITS[sign], length="long", locale=self._locale))
        return _put(self.cardinal(number), written)

    def amount(self, number: int | Decimal, sign: str) -> str:
        """Return an amount of money; hundredths are said where they are not nought.

        Args:
            number: how much.
            sign: one of `CURRENCIES`.
        """
        from babel.numbers import get_currency_name

        code = CURRENCIES[sign]
        if abs(int(number)) >= LARGEST:
            return self.digits(str(number))
        exact = Decimal(number).quantize(Decimal("0.01"))
        said = self._say(exact, "currency", currency=code, separator="|")
        name = str(get_currency_name(code, count=int(number), locale=self._locale))
        if said is None or Decimal(number) != exact:
            return f"{self.cardinal(number)} {name}"
        whole, *cents = (part.strip().removesuffix(" sterling") for part in said.split("|"))
        if " " not in name:  # `US dollars` is what nobody says, `euros` is
            whole = f"{self.cardinal(int(number))} {name}"
        return " ".join([whole, *cents] if exact % 1 else [whole])

    @cached_property
    def decimal_sign(self) -> str:
        """What stands before decimals, such as `.` or `,`."""
        from babel.numbers import get_decimal_symbol

        return str(get_decimal_symbol(self._locale))

    @cached_property
    def group_signs(self) -> str:
        """What may part thousands, one character each."""
        from babel.numbers import get_group_symbol

        sign = str(get_group_symbol(self._locale))
        return " \u00a0\u202f" if sign.isspace() else sign

    def number(self, written: str) -> int | Decimal | None:
        """Return what is written with this language's signs; None: it is no number."""
        bare = re.sub(f"[{re.escape(self.group_signs)}'’]", "", written)
        bare = bare.replace(self.decimal_sign, ".").replace("−", "-")
        try:
            return int(bare) if "." not in bare else Decimal(bare)
        except (ValueError, InvalidOperation):
            return None

    @cached_property
    def months(self) -> tuple[str, ...]:
        """The months' names and abbreviations, longest first, in lower case and without a dot."""
        from babel.dates import get_month_names

        names = {
            str(name).lower().strip(".")
            for width in ("wide", "abbreviated")
            for context in ("format", "stand-alone")
            for name in get_month_names(width, context, self._locale).values()
        }
        return tuple(sorted((n for n in names if n[:1].isalpha()), key=lambda n: (-len(n), n)))

    def _say(self, number: int | Decimal, how: str, **more: str) -> str | None:
        """Return what num2words says, None where it cannot."""
        from num2words import num2words

        try:
            said = str(num2words(number, lang=self._code, to=how, **more))
        except Exception:  # of each of its languages in its own way
            return None
        said = " ".join(said.replace("-", " ").replace(",", " ").split())
        return None if re.search(r"\d", said) else said


def _put(words: str, written: str) -> str:
    """Return a text with words in the place of the number that it holds."""
    found = re.search("[-−]?\\d(?:[\\d.,\u00a0\u202f '’]*\\d)?", written)
    if found is None:  # languages with a word of its own for one, such as Arabic
        return written
    return f"{written[: found.start()]}{words}{written[found.end() :]}"


@lru_cache
def known_languages() -> tuple[str, ...]:
    """Return the codes of the languages that num2words has."""
    from num2words import CONVERTER_CLASSES

    converters: Mapping[str, Any] = CONVERTER_CLASSES
    return tuple(sorted(converters))


@lru_cache
def spoken(language: str) -> Spoken:
    """Return a language's words, found once; see `Spoken`."""
    return Spoken(language)


def can_say(language: str) -> bool:
    """Return whether numbers can be said in a language."""
    try:
        spoken(language)
    except NoLanguage:
        return False
    return True
