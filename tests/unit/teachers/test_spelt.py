"""What a teacher wrote, as students are to write it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from distillery.data.spelling import SpellingRule
from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.teachers.spelt import (
    check_english,
    check_language,
    default_language,
    spell_heard,
    spell_hypotheses,
    spelt,
)

LETTERS = Vocabulary.from_alphabet("abcdefghijklmnopqrstuvwxyz'")
RULE = SpellingRule("digits", "spell", "en")


def test_numbers_and_letters_are_words_of_the_students() -> None:
    assert spelt(" XKITB2611.", RULE, LETTERS) == "x k i t b two six one one"
    assert spelt("It's 5%!", RULE, LETTERS) == "it's five percent"
    upper = Vocabulary.from_alphabet("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert spelt("Go to 21.", RULE, upper) == "GO TO TWO ONE"
    figures = Vocabulary.from_alphabet("abcdefghijklmnopqrstuvwxyz0123456789")
    assert spelt("Room 21", SpellingRule("keep", "keep"), figures) == "room 21"


def test_marks_go_where_students_lack_them_and_other_letters_make_no_hypothesis() -> None:
    assert spelt("Café naïve", RULE, LETTERS) == "cafe naive"
    assert spelt("Café", RULE, Vocabulary.from_alphabet("acefé")) == "café"
    assert spelt("Привет", RULE, LETTERS) is None
    assert spelt("straße", RULE, LETTERS) is None  # ß is no letter with a mark
    assert spelt("room 21", SpellingRule("keep", "keep"), LETTERS) is None


def test_equal_spellings_are_one_hypothesis_with_their_probabilities_added() -> None:
    heard = [
        ("Enter 20.", math.log(0.4)),
        ("Входи 20", math.log(0.2)),
        ("enter 21", math.log(0.15)),
        ("Enter two zero", math.log(0.1)),
    ]
    found = spell_hypotheses(heard, RULE, LETTERS)
    assert [text for text, _ in found] == ["enter two zero", "enter two one"]
    assert [math.exp(score) for _, score in found] == pytest.approx([0.5, 0.15])
    assert spell_hypotheses(heard[1:2], RULE, LETTERS) == []


def test_confidence_is_that_of_a_spelling_in_all_its_forms() -> None:
    heard = [("Вперёд", math.log(0.3), 4), ("Go!", math.log(0.25), 2), ("go", math.log(0.24), 3)]
    found, confidence = spell_heard(heard, RULE, LETTERS)
    assert found == [("go", pytest.approx(math.log(0.49)))]
    assert confidence == pytest.approx(0.7)  # per token of the better form; 0.5 by itself
    assert spell_heard(heard[:1], RULE, LETTERS) == ([("", math.log(0.3))], 0.0)
    sure = [("Go", -1e-9, 2), ("go", -1e-9, 2)]
    assert spell_heard(sure, RULE, LETTERS)[1] == 1.0  # rounding makes no 1.4


def test_a_teacher_and_the_rule_speak_one_language() -> None:
    for written, said in (("pt", "pt_BR"), ("no", "nb"), ("en", "en-IN")):
        check_language(written, SpellingRule("cardinals", "spell", said), "teacher.language")
    check_language("nl", SpellingRule("keep", "spell", "en"), "teacher.language")
    with pytest.raises(ModelError, match=r"teacher.language is 'nl', .*language to nl, or"):
        check_language("nl", RULE, "teacher.language")


def data_in(language: str | None) -> Any:
    return SimpleNamespace(summary=SimpleNamespace(language=language))


def test_a_teacher_hears_the_language_of_the_data() -> None:
    assert default_language("transcribe", data_in("nl")) == "nl"
    assert default_language("transcribe", data_in("nb")) == "no"  # as Whisper calls it
    assert default_language("transcribe", data_in(None)) is None
    assert default_language("translate", data_in("en")) is None  # of the texts, not of the speech


def test_a_model_of_english_alone_is_no_teacher_of_other_languages() -> None:
    check_english("base.en", data_in(None))
    check_english("base.en", data_in("en"))
    with pytest.raises(ModelError, match=r"'base.en' knows English alone, but prepare.language is"):
        check_english("base.en", data_in("nl"))
