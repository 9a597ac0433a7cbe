"""What is written in several forms, in any script, becomes one; what is not seen is dropped."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.letters import APOSTROPHES, SIGNS
from distillery.data.text import meaning, normalise

ZWNJ, ZWJ = "\u200c", "\u200d"
TEXTS = st.lists(
    st.one_of(
        st.characters(exclude_categories=("Cs",)),
        st.sampled_from([*SIGNS, *APOSTROPHES, "'", '"', " ", "′", "l", "h", "i", "\u0307"]),
        st.sampled_from("אבשלמخंن्්රිקกา\u0e4d\u0301\u05b8\u064eİΣ\u0345"),
    ),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("sign", ["\u00ad", "\u200b", "\u2060", "\u200e", "\u200f", "\ufeff"])
@pytest.mark.parametrize(
    "form", ["kit{}chen", "{}kitchen", "kitchen{}", "kitch{}en", "k{0}{0}itchen"]
)
def test_format_characters_part_no_word(sign: str, form: str) -> None:
    assert normalise(form.format(sign), "lower") == "kitchen"


def test_every_format_character_is_dropped_or_a_visible_sign() -> None:
    for code in range(0x110000):
        if unicodedata.category(chr(code)) == "Cf":
            assert normalise(f"a{chr(code)}b", "lower") in ("ab", "a b"), hex(code)


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("a\ufe0fb", "ab"),  # variation selectors
        ("\u2764\ufe0f heart", "heart"),
        ("1\ufe0f\u20e3 key", "1 key"),  # an enclosing mark
        ("a\u034fb", "ab"),  # combining grapheme joiner
        ("\u1820\u180b", "\u1820"),  # Mongolian
        ("a\u3164b", "a b"),  # a filler is a space
        ("\u2068lamp\u2069 on", "lamp on"),
        ("\u0301a", "a"),  # a mark that no letter bears
    ],
)
def test_what_is_not_seen_is_dropped(published: str, expected: str) -> None:
    assert normalise(published, "lower") == expected


@pytest.mark.parametrize(
    "text",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, ZWNJ
        "\u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Sinhala, ZWJ behind the virama
        "\u09b0\u200d\u09cd\u09af",  # Bengali, ZWJ before it
        "\u0d28\u0d4d\u200d",  # Malayalam's chillu at the end of a word
        "\u0915\u094d\u200c\u0937",  # Devanagari, ZWNJ
    ],
)
def test_joiners_stay_where_the_script_needs_them(text: str) -> None:
    joiner = ZWNJ if ZWNJ in text else ZWJ
    assert normalise(text, "lower") == text
    assert normalise(text, "lower", alphabet=text) == text
    assert normalise(text, "lower", alphabet=text.replace(joiner, "")) == text.replace(joiner, "")


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (f"Auf{ZWNJ}lage", "auflage"),
        (f"a{ZWJ}b", "ab"),
        (f"\u0647{ZWJ}", "\u0647"),  # ZWJ means nothing to Arabic letters
        (f"\u0645\u06cc{ZWNJ} \u0645", "\u0645\u06cc \u0645"),  # at the end of a word
        (f"{ZWNJ}\u0645", "\u0645"),
        (f"\u0645{ZWNJ}{ZWNJ}\u0645", f"\u0645{ZWNJ}\u0645"),
        (f"\u0645{ZWNJ}5", "\u06455"),
        ("👩\u200d💻 code", "code"),
    ],
)
def test_joiners_go_where_it_does_not(published: str, expected: str) -> None:
    assert normalise(published, "lower") == expected


@pytest.mark.parametrize("dot", ["·", "‧", "∙", "⋅", "•"])
def test_the_middle_dot_of_catalan_is_part_of_a_word(dot: str) -> None:
    assert normalise(f"COL{dot}LECCIÓ", "lower") == "col·lecció"
    assert normalise(f"col{dot}lecció", "lower", alphabet="colectió") == "collecció"


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("co\u0140lecció", "col·lecció"),  # ŀ, as older keyboards had it
        ("n·h e s·hòrt", "n·h e s·hòrt"),  # Gascon
        ("卡尔·马克思", "卡尔 马克思"),  # it parts names
        ("foo·bar l· ·l", "foo bar l l"),
        ("レオナルド・ダ", "レオナルド ダ"),
    ],
)
def test_other_dots_part_words(published: str, expected: str) -> None:
    assert normalise(published, "lower") == expected


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("צה״ל", "צה״ל"),
        ('צה"ל', "צה״ל"),
        ("צה''ל", "צה״ל"),
        ("צה׳׳ל", "צה״ל"),
        ("מנכ״לית", "מנכ״לית"),
        ('ארה"ב.', "ארה״ב"),
        ('"שלום"', "שלום"),
        ("״שלום״", "שלום"),
        ('ה"שלום" בא', "ה שלום בא"),  # a quotation, not an abbreviation
        ("ג׳ירפה", "ג'ירפה"),
        ("שָׁל\u05bdוֹם", "שלום"),
    ],
)
def test_hebrew(published: str, expected: str) -> None:
    assert normalise(published, "lower") == expected


def test_gershayim_that_the_alphabet_lacks_part_no_word() -> None:
    assert normalise("צה״ל", "lower", alphabet="צהל") == "צהל"


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("مـــرحبا", "مرحبا"),
        ("مُحَمَّد", "محمد"),
        ("\ufefb", "لا"),
        ("\ufdfa", "صلى الله عليه وسلم"),
        ("\u0622", "\u0622"),
        ("\u0627\u0653", "\u0622"),  # a madda is part of its letter
        ("٣ كتب", "٣ كتب"),
    ],
)
def test_arabic(published: str, expected: str) -> None:
    assert normalise(published, "lower") == expected


def test_points_and_tashkeel_stay_where_the_alphabet_has_them() -> None:
    assert normalise("מַה", "lower", alphabet="מה\u05b7") == "מַה"
    assert normalise("مَن", "lower", alphabet="من\u064e") == "مَن"
    assert normalise("مَنُ", "lower", alphabet="من\u064e") == "مَن"


@pytest.mark.parametrize(
    "text", ["हिन्दी", "বাংলা", "தமிழ்", "తెలుగు", "ភាសាខ្មែរ", "ภาษาไทย", "မြန်မာ", "ꯃꯤꯇꯩ"]
)
def test_marks_of_other_scripts_stay(text: str) -> None:
    assert normalise(text, "lower") == text


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("ＡＢＣ１２", "abc12"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("𝐚𝐛𝐜", "abc"),
        ("ﬁnd", "find"),
        ("ĳs", "ijs"),
        ("ǅ", "dž"),
        ("Ⅷ", "viii"),
        ("⼀", "一"),  # a radical
        ("น\u0e4d\u0e49า", "น้ำ"),  # the sign typed in parts, the tone among them
        ("ນ\u0ecd\u0eb2", "ນຳ"),
        ("น\u0e4dา", "นำ"),
        ("นำ", "นำ"),
    ],
)
def test_forms_of_a_letter_mean_the_letter(published: str, expected: str) -> None:
    assert normalise(published, "lower") == expected


@pytest.mark.parametrize("text", ["m²", "½", "①", "և", "ㅋㅋ", "ʻokina", "ª"])
def test_what_means_something_else_stays(text: str) -> None:
    assert normalise(text, "lower") == text


@pytest.mark.parametrize("mark", ["'", *APOSTROPHES, "′", "＇"])
def test_apostrophes_of_every_form_are_one(mark: str) -> None:
    assert normalise(f"don{mark}t", "lower") == "don't"


def test_a_prime_behind_a_number_is_none() -> None:
    assert normalise("5′10″", "lower") == "5 10"


@pytest.mark.parametrize(
    ("published", "case", "expected"),
    [
        ("İstanbul", "lower", "istanbul"),
        ("I\u0307stanbul", "lower", "istanbul"),
        ("İstanbul".lower(), "lower", "istanbul"),  # as Python and others leave it
        ("İstanbul", "keep", "İstanbul"),
        ("DİYARBAKIR", "lower", "diyarbakir"),
        ("J\u030c", "lower", "ǰ"),  # only the small one is one character
        ("ǰ", "upper", "J\u030c"),
        ("ŉ man", "upper", "N MAN"),
        ("ΟΔΟΣ", "lower", "οδος"),
        ("straße", "upper", "STRASSE"),
    ],
)
def test_case(published: str, case: str, expected: str) -> None:
    found = normalise(published, case)
    assert found == expected
    assert unicodedata.is_normalized("NFC", found)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, case=st.sampled_from(["lower", "upper", "keep"]))
def test_a_text_is_whole_and_settled_after_one_pass(text: str, case: str) -> None:
    once = normalise(text, case)
    assert normalise(once, case) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == " ".join(once.split())
    assert all(c in SIGNS or c in "' " or unicodedata.category(c)[0] in "LMN" for c in once)


def as_before(text: str) -> str:
    """The rule before there were others than Latin letters in it."""
    text = unicodedata.normalize("NFC", text)
    text = text.translate({ord(mark): "'" for mark in "’‘ʼ`´"}).lower()
    kept = (c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)


LATIN = [chr(code) for code in (*range(0x20, 0x7F), *range(0xA1, 0x17F)) if code != 0xAD]
CHANGED = "µ·ŉĲĳĿŀİ"
PARTS = [c for c in LATIN if c not in CHANGED] + [*"‘’“”„–—…€\u00a0", "e\u0301", "U\u0308"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_texts_in_latin_letters_are_what_they_were(text: str) -> None:
    assert normalise(text, "lower") == as_before(text)


@pytest.mark.parametrize(
    ("character", "found"),
    [("a", "a"), ("A", "a"), ("-", " "), ("\u00ad", ""), ("’", "'"), ("ﬁ", "fi"), ("·", "·")],
)
def test_the_meaning_of_a_character_tells_a_space_from_nothing(character: str, found: str) -> None:
    assert meaning(character, "lower") == found


def test_marks_have_the_meaning_of_themselves() -> None:
    for mark in ("\u0301", "\u093f", "\u05b8", "\u064e", "\u3099"):
        assert meaning(mark, "lower") == mark
