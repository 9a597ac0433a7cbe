"""What is written in digits and capitals becomes the words that were said, by a rule with a name.

Recognisers that others trained write `2611`, `21st`, `5 %` or `XKITB`; students learn what is said.
A rule says how, for transcripts and a teacher's texts alike:

    numbers   cardinals   `2611` is `two thousand six hundred and eleven`
              digits      bare digits are said one by one: `two six one one`
              keep        digits stay
    letters   spell       letter strings are said letter by letter: `XKITB` is `X K I T B`
              keep        they stay
    language  whose words these are; without one everything stays

Under `cardinals` and `digits`, what is written in a form of its own is said as that form is:
ordinals (`21st`), dates with a month's name (`May 21, 1970`), numeric dates (`5/21/70`, number by
number), times (`3:30 pm`), amounts (`$5.30`), percent and units, decimals, thousands (`1,000`),
decades. So are digits that count nothing: with a nought in front, of seven figures or more, in
groups as telephone numbers are, or of three and more beside letters (`XKITB2611`), which are said
one by one. Numbers from 1100 on that may be years are said as years are.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property, lru_cache, partial

from distillery.data.spoken import CURRENCIES, UNITS, Spoken, can_say, spoken
from distillery.files import Json

AUTO = "auto"
_Form = Callable[[re.Match[str]], str]
LETTERS_OF_ENGLISH = frozenset("abcdefghijklmnopqrstuvwxyz'")
LONG = 7
"""Figures from which on a bare number is no quantity."""
MIXED = 3
"""Figures beside letters from which on they are said one by one."""


@dataclass(frozen=True)
class SpellingRule:
    """How what is written in digits and capitals is said."""

    numbers: str
    """`cardinals`, `digits` or `keep`."""
    letters: str
    """`spell` or `keep`."""
    language: str | None = None
    """Its code, such as `en`; None: numbers stay."""

    @property
    def entries(self) -> Json:
        """What files hold of it."""
        return asdict(self)

    @property
    def keeps_numbers(self) -> bool:
        """Whether digits stay as they are."""
        return self.numbers == "keep" or self.language is None

    @classmethod
    def parse(cls, content: str) -> SpellingRule:
        """Return the rule that JSON of its entries means.

        Raises:
            ValueError: it is none.
        """
        try:
            return cls(**json.loads(content))
        except TypeError:
            raise ValueError(f"{content[:80]!r} is no rule of spelling") from None

    def __str__(self) -> str:
        language = f", language {self.language}" if self.language else ""
        return f"numbers {self.numbers}, letters {self.letters}{language}"


def spell(text: str, rule: SpellingRule, cased: bool = True) -> str:
    """Return a text as it was said; the text rule (`normalise`) comes after.

    Args:
        text: as a recogniser or a person wrote it, case and signs kept.
        rule: how.
        cased: whether whoever wrote it uses small letters for words: capitals mean letters only
            then, see `writes_small_letters`.

    Raises:
        NoLanguage: the rule's language is not known.
    """
    if rule.letters == "spell":
        text = _letters_apart(text, cased)
    if rule.keeps_numbers or not re.search("[0-9]", text):
        return re.sub(r"(?<=\b[A-Z])(?=\d)", " ", text) if rule.letters == "spell" else text
    assert rule.language is not None
    return _saying(rule.language, rule.numbers == "digits").say(text)


def without_marks(text: str, known: Collection[str]) -> str:
    """Return a normalised text; letters that are not known lose their marks where they may.

    Args:
        text: such as `één`.
        known: the characters that texts may hold, such as those without `é`: `een`.
    """
    unknown = set(text) - set(known) - {" "}
    bare = {ord(c): base for c in unknown if (base := _bare(c)) in known}
    return text.translate(bare) if bare else text


@lru_cache(maxsize=4096)
def _bare(character: str) -> str:
    return unicodedata.normalize("NFD", character)[:1]


def writes_small_letters(texts: Iterable[str]) -> bool:
    """Return whether most of some texts hold a small letter."""
    counts = [0, 0]
    for text in texts:
        if text.lower() != text or text.upper() != text:
            counts[text != text.upper()] += 1
    return counts[1] > counts[0]


# --- letters -----------------------------------------------------------------------------------

_CAPITALS = re.compile(r"(?<![\w'’])([^\W\d_]{2,})(?:['’]?(s))?(?![\w'’])")
_MIXED = re.compile(r"(?<![\w'’])(?=[^\W_]*\d)(?=[^\W_]*[^\W\d_])[^\W_]+(?![\w'’])")
_ORDINAL_LIKE = re.compile(r"\d+[^\W\d_]+")
_SMALL = re.compile("[aeiouy]")


def _letters_apart(text: str, cased: bool) -> str:
    """Return a text with spaces between the letters of strings that are no words."""
    text = _MIXED.sub(_mixed_apart, text)
    return _CAPITALS.sub(_capitals_apart, text) if cased else text


def _capitals_apart(found: re.Match[str]) -> str:
    letters, plural = found[1], found[2]
    if plural is None and letters[-1] == "s" and letters[:-1].isupper() and len(letters) > 2:
        letters, plural = letters[:-1], "s"  # TVs
    if not letters.isupper():
        return found[0]
    return " ".join(letters) + (f" {plural}" if plural else "")


def _mixed_apart(found: re.Match[str]) -> str:
    """Return the letters of a string with digits apart, if they make no word."""
    if _ORDINAL_LIKE.fullmatch(found[0]) and not found[0].isupper():
        return found[0]  # 21st, 5km, 3pm
    return re.sub(r"[^\W\d_]+", lambda run: _run_apart(run[0]), found[0])


def _run_apart(letters: str) -> str:
    if letters.isupper() or len(letters) == 1 or not _SMALL.search(letters.lower()):
        return " ".join(letters)
    return letters


# --- numbers -----------------------------------------------------------------------------------


@lru_cache
def _saying(language: str, one_by_one: bool) -> _Saying:
    return _Saying(spoken(language), one_by_one)


def _apart(form: _Form, found: re.Match[str]) -> str:
    return f" {form(found)} "


class _Saying:
    """The forms that numbers are written in, tried one after another."""

    def __init__(self, words: Spoken, one_by_one: bool) -> None:
        self._words, self._one_by_one = words, one_by_one

    def say(self, text: str) -> str:
        """Return a text without a digit from 0 to 9."""
        for pattern, form in self._forms:
            if not re.search("[0-9]", text):
                break
            text = pattern.sub(partial(_apart, form), text)
        return re.sub("[ \t]+", " ", text).strip()

    @cached_property
    def _forms(self) -> tuple[tuple[re.Pattern[str], _Form], ...]:
        words = self._words
        group, decimal = re.escape(words.group_signs), re.escape(words.decimal_sign)
        number = rf"(?:\d{{1,3}}(?:[{group}'’]\d{{3}})+|\d+)(?:{decimal}\d+)?"
        start, end = rf"(?<![\w{decimal}])", r"(?![\w])"
        months = "|".join(map(re.escape, words.months))
        money = "".join(map(re.escape, CURRENCIES))
        units = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
        scales = _SCALES.get(words.language, "(?!)")
        suffix = _ORDINALS.get(words.language, "[ºª]")
        listed = [
            (rf"\b({months})\.? +(\d{{1,2}})(?:{suffix})?,? +(\d{{4}})\b", self._month_day),
            (
                rf"\b({months})\.? +(\d{{1,2}})(?:{suffix})?(?![\d:{decimal}]\d|\w)"
                r"(?:,? +['’]?(\d\d)(?=\W*$))?",
                self._month_day,
            ),
            (
                rf"\b(\d{{1,2}})(?:{suffix}|\.)?,? +((?:(?:of|de|di|d['’]) *)?(?:{months})\b\.?,?)"
                r"(?: +((?:de|del|di|of) +)?(\d{4})\b)?",
                self._day_month,
            ),
            (r"\b(\d{1,4})([/.-])(\d{1,2})\2(\d{2,4})\b", self._numeric_date),
            (r"\b(\d{1,2})[:.](\d{2})(?::(\d{2}))?(?: ?([ap])\.? ?m\b\.?)", self._time),
            (r"\b(\d{1,2}):(\d{2})(?::(\d{2}))?(?![:\d])()", self._time),
            (r"\b(\d{1,2})()() ?([ap])\.? ?m\b\.?", self._time),
            (rf"([{money}]) ?({number})(?: +({scales})\b)?", self._money_before),
            (rf"{start}({number})(?: +({scales}))? ?([{money}])", self._money_behind),
            (rf"{start}([-−]?{number})(?: ?)({units}){end}", self._measure),
            (rf"\b(\d+)(?:{suffix}){end}", lambda found: words.ordinal(int(found[1]))),
            *_DECADES.get(words.language, ()),
            (r"(?<![\w-])\+?\(?\d+\)?(?:[ -]\d+)*(?:-\d+){2,}(?![\w-])", self._grouped),
            (
                r"(?<![\w-])\+?(?:\(\d{2,5}\) ?)?(?:\d{3}-\d{4}|\d{4,5}-\d{4})(?![\w-])",
                self._grouped,
            ),
            (rf"(?<![\w{decimal}])([-−]?{number}){end}", self._number),
            (r"\d+", self._beside_letters),
        ]
        return tuple((re.compile(pattern, re.IGNORECASE), form) for pattern, form in listed)

    def _grouped(self, found: re.Match[str]) -> str:
        """Return digits in groups, one by one, unless they are two years."""
        ends = found[0].split("-")
        if len(ends) == 2 and all(len(end) == 4 and 1000 <= int(end) < 2100 for end in ends):
            return found[0].replace("-", " ")
        return self._words.digits(found[0])

    def _is_month(self, written: str) -> bool:
        """Return whether a word is a month: English `may` and `mar` are others in small letters."""
        return self._words.language != "en" or written.split()[-1][0].isupper()

    def _month_day(self, found: re.Match[str]) -> str:
        if not self._is_month(found[1]):
            return found[0]
        day = self._words.ordinal if self._words.language == "en" else self._words.cardinal
        year = f" {self._words.year(int(found[3]))}" if found[3] else ""
        return f"{found[1]} {day(int(found[2]))}{year}"

    def _day_month(self, found: re.Match[str]) -> str:
        if not self._is_month(found[2]):
            return found[0]
        written = found.string[found.start() : found.start(2)].strip()
        is_ordinal = not written.rstrip(",").isdigit()
        in_order = self._words.language in ("en", "de") or is_ordinal
        day = self._words.ordinal if in_order else self._words.cardinal
        year = f" {found[3] or ''}{self._words.year(int(found[4]))}" if found[4] else ""
        return f"{day(int(found[1]))} {found[2]}{year}"

    def _numeric_date(self, found: re.Match[str]) -> str:
        parts = [int(part) for part in (found[1], found[3], found[4])]
        year = parts.pop(0 if len(found[1]) == 4 else 2)
        is_year = year < 100 or 1000 <= year < 3000
        if not is_year or not 0 < min(parts) <= 12 or not 0 < max(parts) <= 31:
            return found[0]
        return " ".join(self._words.plain(int(found[group])) for group in (1, 3, 4))

    def _time(self, found: re.Match[str]) -> str:
        words, (hour, minute, second, half) = self._words, found.groups()
        said = [words.cardinal(int(hour))]
        between = _HOUR.get(words.language)
        if between:
            said.append(between)
        if minute and int(minute):
            nought = ["oh" if words.language == "en" else words.digits("0")]
            said += nought if minute[0] == "0" and not between else []
            said.append(words.cardinal(int(minute)))
        elif minute and not half and words.language == "en":
            said.append("o'clock" if 0 < int(hour) <= 12 else "hundred")
        if second:
            said.append(words.cardinal(int(second)))
        return " ".join([*said, *([half, "m"] if half else [])])

    def _money_before(self, found: re.Match[str]) -> str:
        return self._money(found[2], found[3], found[1])

    def _money_behind(self, found: re.Match[str]) -> str:
        return self._money(found[1], found[2], found[3])

    def _money(self, written: str, scale: str | None, sign: str) -> str:
        number = self._words.number(written)
        if number is None:
            return self._words.digits(written)
        if scale:
            thousand = self._words.cardinal(1000)
            many = self._words.amount(1000, sign).removeprefix(thousand).strip()
            return f"{self._words.cardinal(number)} {scale} {many}"
        return self._words.amount(number, sign)

    def _measure(self, found: re.Match[str]) -> str:
        number = self._words.number(found[1])
        sign = next(sign for sign in UNITS if sign.lower() == found[2].lower())
        return self._words.digits(found[0]) if number is None else self._words.measure(number, sign)

    def _number(self, found: re.Match[str]) -> str:
        """Return a number that stands by itself."""
        words, written = self._words, found[1]
        bare = written.lstrip("-−")
        number = words.number(written)
        if number is None:
            return words.digits(written)
        if isinstance(number, Decimal) or not bare.isdigit():
            return words.cardinal(number)  # decimals, and thousands by their signs
        no_quantity = len(bare) >= LONG or (len(bare) > 1 and bare[0] == "0")
        if self._one_by_one or no_quantity:
            return words.digits(bare)
        return words.cardinal(number) if number < 0 else words.plain(number)

    def _beside_letters(self, found: re.Match[str]) -> str:
        written = found[0]
        if self._one_by_one or len(written) >= MIXED or written[0] == "0":
            return self._words.digits(written)
        return self._words.cardinal(int(written))


_ORDINALS = {
    "en": "st|nd|rd|th",
    "nl": "ste|de|e",
    "fr": "ers?|ère|re|e|ème|eme|nde?",
    "es": "[ºª]|er|do|ro|to|mo|vo|no|da|ra|ta|ma|va|na",
    "it": "[º°ª]",
    "pt": "[ºª]",
    "sv": ":[ae]",
    "fi": ":s",
    "ca": "[ºª]|r|n|t|è",
}
"""What is written behind the digits of an ordinal, by language."""
_SCALES = {
    "en": "thousand|million|billion|trillion",
    "nl": "duizend|miljoen|miljard|biljoen",
    "de": "tausend|Millionen|Million|Milliarden|Milliarde",
    "fr": "mille|millions?|milliards?",
    "es": "mil|millones|millón",
    "it": "mila|milioni|milione|miliardi|miliardo",
    "pt": "mil|milhões|milhão|bilhões|bilhão",
}
"""What stands between a number and its currency, by language."""
_HOUR = {"nl": "uur", "de": "Uhr", "fr": "heures", "pt": "horas"}
"""What is said between hours and minutes."""


def _decade(found: re.Match[str]) -> str:
    said = spoken("en").year(int(found[1]))
    return f"{said[:-1]}ies" if said.endswith("y") else f"{said}s"


_DECADES = {"en": ((r"(?<!\w)['’]?(\d0|\d{3}0)['’]?s\b", _decade),)}
"""The decades of a century, `1970s`, by language."""


# --- what `auto` means ---------------------------------------------------------------------------


def settle(
    numbers: str,
    letters: str,
    language: str | None,
    alphabet: Collection[str] | None,
    texts: Iterable[str],
    written_in: str | None = None,
) -> SpellingRule:
    """Return the rule that settings mean, as the corpus's own transcripts write.

    Numbers stay where texts may hold digits (the alphabet has them, or there is none and the texts
    do); they are said one by one where transcripts hold more words in such runs than words for
    larger numbers. Letters are spelt where transcripts hold single letters in runs and no letter
    string, and where there are no transcripts.

    Args:
        numbers: `auto`, or what the rule is to say.
        letters: likewise.
        language: its code; None: English where texts may hold no letter of another language.
        alphabet: the characters that texts may hold; None: those of the texts.
        texts: transcripts as published.
        written_in: the language of the texts, where that is known; numbers are said in it, or stay
            where nobody can say them.
    """
    held = list(texts)
    seen = set("".join(held))
    if language is None and written_in is not None:
        language = written_in if can_say(written_in) else None
        numbers = "keep" if language is None and numbers == AUTO else numbers
    elif language is None:
        possible = {c for c in (alphabet if alphabet is not None else seen) if c.isalpha()}
        is_english = {c.lower() for c in possible} <= LETTERS_OF_ENGLISH
        language = "en" if is_english else None
    if numbers == AUTO:
        numbers = _numbers_of(held, language, seen if alphabet is None else alphabet)
    if letters == AUTO:
        letters = _letters_of(held)
    return SpellingRule(numbers, letters, language)


_RUN_OF_LETTERS = re.compile(r"(?<![\w'’])[^\W\d_](?:[ .-]+[^\W\d_]){1,}(?![\w'’])")


def _letters_of(texts: list[str]) -> str:
    if not texts:
        return "spell"
    cased = writes_small_letters(texts)
    if any(_letters_apart(text, cased) != text for text in texts):
        return "keep"
    return "spell" if any(_RUN_OF_LETTERS.search(text) for text in texts) else "keep"


def _numbers_of(texts: list[str], language: str | None, may_hold: Collection[str]) -> str:
    if language is None or set("0123456789") & set(may_hold):
        return "keep"
    words = spoken(language)
    ones = {words.cardinal(n) for n in range(10)}
    larger = {words.cardinal(n) for n in (*range(10, 20), *range(20, 100, 10))}
    larger |= set(words.cardinal(100).split()) | set(words.cardinal(1000).split())
    single = other = 0
    for text in texts:
        parts = re.findall(r"[^\W\d_]+", text.lower())
        other += sum(part in larger - ones for part in parts)
        single += sum(a in ones and b in ones for a, b in itertools.pairwise(parts))
    return "digits" if single > other else "cardinals"
