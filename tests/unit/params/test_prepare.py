"""Alphabets that no text can be written in are refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distillery.errors import ParamsError
from distillery.params.prepare import PrepareParams
from distillery.params.whole import Params
from tests.tiny import tiny_params, write_params


def prepare(**changes: Any) -> PrepareParams:
    return PrepareParams(corpus="manifest", source="corpus", **changes)


@pytest.mark.parametrize(
    ("alphabet", "words"),
    [
        ("abc|", r"'\|' \(U\+007C, VERTICAL LINE\) stands for the space in tokens; remove it"),
        ("abc\n", r"'\\n' \(U\+000A.*is white space.*in YAML a block"),
        ("a\tb", r"U\+0009"),
        ("a\u00a0b", r"U\+00A0, NO-BREAK SPACE"),
        ("abca", r"'a' \(U\+0061, LATIN SMALL LETTER A\) stands twice"),
        ("é e\u0301", r"'é' .* stands twice"),
        ("", "holds no character"),
        ("  ", "holds no character"),
        ("abc-", r"'-' \(U\+002D, HYPHEN-MINUS\).* makes a space of it; remove it"),
        ("abc\u00ad", r"U\+00AD, SOFT HYPHEN\).* makes nothing of it; remove it"),
        ("abc\u200b", r"U\+200B"),
        (
            "abC",
            r"'C' .*with case lower makes 'c' of it; write 'c' in its place, or set case to keep",
        ),
        ("abİ", r"U\+0130"),
        ("ab’", r"U\+2019.*makes \"'\" of it; write \"'\" in its place"),
        ("ab€", r"U\+20AC"),
        ("abＣ", r"U\+FF23"),
        ("abﬁ", r"U\+FB01.*makes 'fi' of it; write 'fi' in its place \["),
        ("مـ", r"U\+0640"),
        ("ab\ufeff", r"U\+FEFF"),
        ("ab‧", r"U\+2027"),
    ],
)
def test_a_character_that_can_stand_in_no_text_is_named(alphabet: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        prepare(alphabet=alphabet)


def test_upper_case_needs_an_alphabet_in_upper_case() -> None:
    with pytest.raises(ValidationError, match=r"'a' .*with case upper makes 'A' of it"):
        prepare(case="upper")
    with pytest.raises(ValidationError, match=r"'ß' .*with case upper makes 'SS' of it"):
        prepare(case="upper", alphabet="AOUß")
    assert prepare(case="upper", alphabet="ABC'").alphabet == "ABC'"
    assert prepare(case="keep", alphabet="aAbB").alphabet == "aAbB"


@pytest.mark.parametrize(
    "alphabet",
    [
        "abc'",
        "a b c",  # the space is always there
        "abcdefghijklmnopqrstuvwxyzéèëïöü'",
        "abceilnorstçóà·",
        "اآبپتثجچ\u200c",
        "אבגדהוזחטיכךלמםנןסעפףצץקרשת'״",
        "אבג\u05b7\u05b8",  # points, learnt because they are named
        "कखगघ\u093e\u093f\u094d\u200d",
        "กขคงำ\u0e48",
        "今天气",
        "αβγδες",
        "0123456789",
    ],
)
def test_an_alphabet_of_what_texts_hold_is_taken_as_it_is(alphabet: str) -> None:
    assert prepare(alphabet=alphabet).alphabet == alphabet


def test_decomposed_letters_become_one_character() -> None:
    assert prepare(alphabet="abce\u0301").alphabet == "abcé"
    assert prepare(alphabet="\u0301abc").alphabet == "\u0301abc"  # in front it is a mark by itself


def test_letters_that_no_single_character_stands_for_may_share_their_parts() -> None:
    # U+0958 and U+0959 are two characters each in NFC, whoever typed them.
    assert prepare(alphabet="क\u0958ख\u0959").alphabet == "\u093cकख"
    assert prepare(alphabet="क क\u093c ख ख\u093c").alphabet == "\u093cकख"
    mixed = prepare(alphabet="xax\u0301").alphabet
    assert mixed == prepare(alphabet=mixed).alphabet == "\u0301xa"  # and no á
    with pytest.raises(ValidationError, match=r"U\+0915.* \+ U\+093C.*stands twice"):
        prepare(alphabet="\u0958कक\u093c")


def test_the_settings_name_the_key(tmp_path: Path) -> None:
    write_params(tmp_path, tiny_params(prepare={"alphabet": "abc|"}))
    with pytest.raises(ParamsError, match=r"prepare\.alphabet: '\|'"):
        Params.load(tmp_path / "params.yaml")


def test_an_unknown_unit_is_refused() -> None:
    assert prepare().unit == "auto"
    with pytest.raises(ValidationError, match="unit"):
        prepare(unit="syllable")
