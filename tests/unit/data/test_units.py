from __future__ import annotations

from collections import Counter

import pytest

from distillery.data.units import Unit, unit_of


@pytest.mark.parametrize(
    "text",
    [
        "今天的天气非常好",
        "東京タワーへ行く",
        "ありがとうございます",
        "ガイド",
        "ㄅㄆㄇ",
        "สวัสดีครับ",
        "ສະບາຍດີ",
        "សួស្តី",
        "မင်္ဂလာပါ",
        "བཀྲ ཤིས",
        "今天 用 iPhone 打电话给他",
    ],
)
def test_scripts_without_spaces_are_counted_in_characters(text: str) -> None:
    assert unit_of(Counter(text)) is Unit.CHARACTER


@pytest.mark.parametrize(
    "text", ["", "123", "hello", "안녕하세요 세계", "привет мир", "हिन्दी", "مرحبا", "he said 你好"]
)
def test_others_are_counted_in_words(text: str) -> None:
    assert unit_of(Counter(text)) is Unit.WORD


def test_units_say_what_they_count_and_against_what() -> None:
    assert [unit.rate for unit in Unit] == [
        "WER",
        "CER",
        "phrase errors",
        "WER vs teacher",
        "CER vs teacher",
    ]
    assert Unit.WORD.vs_teacher is Unit.TEACHER_WORD
    assert Unit.CHARACTER.vs_teacher is Unit.TEACHER_CHARACTER
    assert Unit.TEACHER_CHARACTER.parts("ab c") == ["a", "b", "c"]
    assert Unit.PHRASE.parts("two shots; large") == ["two shots", "large"]
    assert Unit.PHRASE.joined(["two shots", "large"]) == "two shots; large"
    assert all(" " not in unit.key for unit in Unit)
    assert Unit.TEACHER_WORD.reference == "the teacher's text"
    assert [unit for unit in Unit if "teacher" in unit.rate_in_words] == [
        unit for unit in Unit if unit.is_vs_teacher
    ]


def test_the_parts_of_a_text() -> None:
    assert Unit.WORD.parts("ab c ") == ["ab", "c"]
    assert Unit.CHARACTER.parts("ab c ") == ["a", "b", "c"]
    assert Unit.WORD.joined(["ab", "c"]) == "ab c"
    assert Unit.CHARACTER.joined(["a", "b"]) == "ab"
    assert Unit.WORD.parts("") == Unit.CHARACTER.parts(" ") == []


def test_what_people_read() -> None:
    assert [unit.rate for unit in Unit][:2] == ["WER", "CER"]
    assert Unit.CHARACTER.rate_in_words == "character error rate"
    assert Unit.CHARACTER.plural == "characters"
