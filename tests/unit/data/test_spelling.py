"""Digits and capitals become the words that were said."""

from __future__ import annotations

import re

import pytest

from distillery.data.spelling import SpellingRule, settle, spell, writes_small_letters
from distillery.data.spoken import NoLanguage
from distillery.data.text import normalise

LETTERS = "abcdefghijklmnopqrstuvwxyz'"


def said(
    text: str, numbers: str = "cardinals", letters: str = "spell", language: str = "en"
) -> str:
    return normalise(spell(text, SpellingRule(numbers, letters, language)), "lower")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Enter 20.", "enter twenty"),
        (
            "I have 21 of 1,000 and 2500.",
            "i have twenty one of one thousand and two thousand five hundred",
        ),
        ("in 1970 and 2016", "in nineteen seventy and twenty sixteen"),
        ("in 2005", "in two thousand and five"),
        ("the 21st, the 2nd", "the twenty first the second"),
        ("May 21st, 1970", "may twenty first nineteen seventy"),
        ("May 2, 1965.", "may second nineteen sixty five"),
        ("on the 3rd of March 1999", "on the third of march nineteen ninety nine"),
        ("Nov. 9, 65", "nov ninth sixty five"),
        ("November 9th, '65.", "november ninth sixty five"),
        ("May 5, 20 people", "may fifth twenty people"),
        ("8-8-4-3648", "eight eight four three six four eight"),
        ("32/40/50", "thirty two forty fifty"),
        ("15213-1234", "one five two one three one two three four"),
        ("1939-1945", "nineteen thirty nine nineteen forty five"),
        ("100-200", "one hundred two hundred"),
        ("(412) 555-1234", "four one two five five five one two three four"),
        ("5 may come, may 5 people", "five may come may five people"),
        ("we ate 3 in May", "we ate three in may"),
        ("on 3 June", "on third june"),
        ("12/29/59", "twelve twenty nine fifty nine"),
        ("1970-05-21", "nineteen seventy five twenty one"),
        ("at 3:30 pm", "at three thirty p m"),
        ("at 10:05 and 9:00", "at ten oh five and nine o'clock"),
        ("7 a.m. sharp", "seven a m sharp"),
        ("3pm", "three p m"),
        ("$5", "five dollars"),
        ("$1", "one dollar"),
        ("$5.30 and €20", "five dollars thirty cents and twenty euros"),
        ("£3 million", "three million pounds"),
        ("5% of 3.5 kg", "five percent of three point five kilograms"),
        ("-5°C", "minus five degrees celsius"),
        ("3.14", "three point one four"),
        ("the 1970s and the '80s", "the nineteen seventies and the eighties"),
        ("call 555-1234", "call five five five one two three four"),
        ("4126843142", "four one two six eight four three one four two"),
        ("412-268-4142", "four one two two six eight four one four two"),
        ("007", "zero zero seven"),
        ("XKITB2611.", "x k i t b two six one one"),
        ("A. B. C.", "a b c"),
        ("R-U-B 39", "r u b thirty nine"),
        ("the USA's TVs and NASA", "the u s a s t v s and n a s a"),
        ("MP3, mp3 and covid19", "m p three m p three and covid nineteen"),
        ("I'M not A. I am.", "i'm not a i am"),
        ("no numbers at all", "no numbers at all"),
        ("5km run", "five kilometers run"),
        ("rows 3-5", "rows three five"),
    ],
)
def test_forms_of_english(written: str, words: str) -> None:
    assert said(written) == words


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("Enter 39.", "enter three nine"),
        ("15213", "one five two one three"),
        ("May 21st, 1970", "may twenty first nineteen seventy"),
        ("the 21st at 3:30", "the twenty first at three thirty"),
        ("$20 and 20%", "twenty dollars and twenty percent"),
        ("F16", "f one six"),
        ("2, 2, 6", "two two six"),
        ("6-8-3-6027", "six eight three six zero two seven"),
        ("November 9th, 65", "november ninth sixty five"),
    ],
)
def test_bare_digits_one_by_one(written: str, words: str) -> None:
    assert said(written, "digits") == words


@pytest.mark.parametrize(
    ("language", "written", "words"),
    [
        ("nl", "21 koffie voor 3,50", "eenentwintig koffie voor drie komma vijf nul"),
        ("nl", "1.000 of 5%", "duizend of vijf procent"),
        ("nl", "de 3e op 21 mei 1970", "de derde op eenentwintig mei negentienhonderdzeventig"),
        ("nl", "om 10:30", "om tien uur dertig"),
        ("de", "am 3. Mai um 10:05 Uhr", "am dritte mai um zehn uhr fünf uhr"),
        ("de", "21 Euro", "einundzwanzig euro"),
        ("fr", "10 000 et 21", "dix mille et vingt et un"),
        ("fr", "le 2e 5 %", "le deuxième cinq pour cent"),
        ("es", "21 y 5 %", "veintiuno y cinco por ciento"),
        ("it", "3,5 e 100", "tre virgola cinque e cento"),
        ("pt_BR", "21 e 5%", "vinte e um e cinco por cento"),
        ("pl", "21", "dwadzieścia jeden"),
        ("sv", "21", "tjugoett"),
        ("tr", "%5", "beş"),
    ],
)
def test_other_languages(language: str, written: str, words: str) -> None:
    assert said(written, language=language) == words
    assert not re.search("[0-9]", said(written, "digits", language=language))


def test_what_is_to_stay_stays() -> None:
    text = "XKITB2611 and the 21st, 5% of NASA"
    assert spell(text, SpellingRule("keep", "keep")) == text
    assert spell(text, SpellingRule("cardinals", "keep")) == text  # of no language
    assert said("NASA has 5", letters="keep") == "nasa has five"
    assert said("NASA has 5", numbers="keep") == "n a s a has 5"


def test_capitals_mean_letters_only_to_those_who_write_small_ones() -> None:
    rule = SpellingRule("cardinals", "spell", "en")
    assert spell("GO TO ROOM XK2611", rule, cased=False) == "GO TO ROOM X K two six one one"
    assert spell("Go to NASA", rule) == "Go to N A S A"
    assert not writes_small_letters(["GO", "STOP NOW", "go"])
    assert writes_small_letters(["Go", "Stop", "XKITB"])
    assert not writes_small_letters([])


@pytest.mark.parametrize("number", ["9" * 80, "1.2.3.4", "1,2,3", "99:99", "0-0", "12:3", "3..4"])
@pytest.mark.parametrize("numbers", ["cardinals", "digits"])
def test_nothing_of_digits_is_left(number: str, numbers: str) -> None:
    for language in ("en", "nl", "fr", "cs"):
        words = spell(f"x {number} y€{number}% ${number}", SpellingRule(numbers, "spell", language))
        assert not re.search("[0-9]", words)


def test_a_language_that_nobody_knows_is_named_with_those_that_are() -> None:
    with pytest.raises(NoLanguage, match=r"language 'xx', expected one of .*de, en, .*nl, no, pl"):
        said("5", language="xx")


def settled(
    *texts: str, alphabet: str | None = LETTERS, language: str | None = None
) -> SpellingRule:
    return settle("auto", "auto", language, alphabet, texts)


def test_transcripts_decide_what_is_left_open() -> None:
    assert settled() == SpellingRule("cardinals", "spell", "en")
    assert settled("two six one one", "x k i t b") == SpellingRule("digits", "spell", "en")
    assert settled("may twenty first nineteen seventy", "hello") == SpellingRule(
        "cardinals", "keep", "en"
    )
    assert settled("X K I of NASA").letters == "keep"  # who tells both apart means it
    assert settled("GO TO ROOM X K").letters == "spell"
    assert settled("drie vijf acht", language="nl").numbers == "digits"
    assert settled("room 5", alphabet=LETTERS + "0123456789").numbers == "keep"
    assert settled("room 5", alphabet=None).numbers == "keep"
    assert settled("room five", alphabet=None).numbers == "cardinals"


def test_the_language_of_the_texts_is_that_of_the_numbers() -> None:
    dutch = settle("auto", "auto", None, LETTERS, [], "nl")
    assert dutch == SpellingRule("cardinals", "spell", "nl")
    assert settle("auto", "auto", None, LETTERS, [], "nb").language == "nb"
    assert settle("auto", "auto", "nl", None, [], "en").language == "nl"
    # Nobody can say numbers in Swahili here: they stay, and are no English words.
    assert settle("auto", "spell", None, LETTERS, [], "sw") == SpellingRule("keep", "spell", None)


def test_english_is_taken_where_no_other_letters_may_stand() -> None:
    assert settled("één").language == "en"  # the alphabet says so
    assert settled("één", alphabet=None) == SpellingRule("keep", "keep", None)
    assert settled("één", alphabet=None, language="nl").language == "nl"
