from __future__ import annotations

from pathlib import Path

import pytest

from distillery.data.text import BLANK, Vocabulary, describe_rule, min_ctc_frames, normalise
from distillery.errors import ModelError


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("ERASE C Q Q F SEVEN", "erase c q q f seven"),
        ("  Well-known,  isn’t it?\n", "well known isn't it"),
        ("'quoted' rock 'n' roll", "quoted rock n roll"),
        ("cafe\u0301", "caf\u00e9"),  # NFC joins letter and accent
        ("Room 101", "room 101"),
        ("a_b", "a b"),
        ("... — !", ""),
        ("हिन्दी", "हिन्दी"),  # combining marks stay
    ],
)
def test_normalised_text(published: str, expected: str) -> None:
    assert normalise(published, "lower") == expected


def test_letter_case_is_a_setting() -> None:
    assert [normalise("Go on", case) for case in ("lower", "upper", "keep")] == [
        "go on",
        "GO ON",
        "Go on",
    ]


def test_normalising_twice_changes_nothing_more() -> None:
    once = normalise("It’s  'HALF'-past - two!", "lower")
    assert normalise(once, "lower") == once == "it's half past two"


def test_the_rule_names_the_case() -> None:
    assert "case: upper" in describe_rule("upper")


def test_a_vocabulary_is_blank_boundary_and_sorted_characters() -> None:
    assert Vocabulary.from_alphabet("cab a").tokens == (BLANK, "|", "a", "b", "c")


def test_encoded_text_decodes_to_itself() -> None:
    vocabulary = Vocabulary.from_alphabet("abc")
    assert vocabulary.encode("ab c") == [2, 3, 1, 4]
    assert vocabulary.decode([0, 2, 3, 0, 1, 1, 4, 0]) == "ab c"


def test_a_character_without_token_is_named() -> None:
    with pytest.raises(ModelError, match=r"\['x'\] have no token; extend prepare\.alphabet"):
        Vocabulary.from_alphabet("abc").encode("ax")


def test_a_saved_vocabulary_loads_with_the_same_digest(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_alphabet("abcé'")
    vocabulary.save(tmp_path / "tokens.txt")
    loaded = Vocabulary.load(tmp_path / "tokens.txt")
    assert loaded == vocabulary
    assert loaded.digest == vocabulary.digest != Vocabulary.from_alphabet("abc").digest
    assert len(loaded) == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", "expected '<blank>'"),
        ("a\nb\n", "expected '<blank>'"),
        ("<blank>\na\na\n", "occurs twice"),
    ],
)
def test_a_broken_vocabulary_file_is_refused(
    tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "tokens.txt").write_text(content)
    with pytest.raises(ModelError, match=words):
        Vocabulary.load(tmp_path / "tokens.txt")


def test_ctc_needs_a_blank_between_equal_neighbours() -> None:
    assert min_ctc_frames("three") == 6
    assert min_ctc_frames("six") == 3
    assert min_ctc_frames([5, 5, 5]) == 5
    assert min_ctc_frames("") == 0
