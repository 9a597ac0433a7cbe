"""Tokens that are pieces of words."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import sentencepiece

from distillery.data.subwords import SUBWORDS_FILE, SubwordVocabulary, load_vocabulary
from distillery.data.text import BLANK, SPACE, Vocabulary, min_ctc_frames
from distillery.errors import ModelError

WORDS = ("turn", "the", "light", "on", "off", "heating", "in", "kitchen", "lights", "turning", "of")
DRAW = random.Random(0)
TEXTS = [" ".join(DRAW.choices(WORDS, k=4)) for _ in range(300)]
ALPHABET = "abcdefghijklmnopqrstuvwxyz'"


@pytest.fixture(scope="module")
def pieces() -> SubwordVocabulary:
    return SubwordVocabulary.learn(TEXTS, 60, ALPHABET)


def test_every_text_of_the_alphabet_is_written_and_read_again(pieces: SubwordVocabulary) -> None:
    for text in (*TEXTS, "it's a zebra", "x", ""):
        assert pieces.decode(pieces.encode(text)) == text
    assert pieces.characters == {*ALPHABET, SPACE}
    assert pieces.unknown("the élan") == {"é"}
    with pytest.raises(ModelError, match="é"):
        pieces.encode("élan")


def test_frequent_words_are_single_pieces_that_need_fewer_frames(pieces: SubwordVocabulary) -> None:
    letters = Vocabulary.from_alphabet(ALPHABET)
    assert [pieces.tokens[token] for token in pieces.encode("the light")] == ["|the", "|light"]
    text = TEXTS[0]
    assert min_ctc_frames(pieces.encode(text)) < 0.5 * min_ctc_frames(letters.encode(text))
    assert pieces.tokens[0] == BLANK and not pieces.is_of_characters
    assert len(pieces) <= 60


def test_equal_texts_give_equal_pieces_and_others_another_digest(pieces: SubwordVocabulary) -> None:
    again = SubwordVocabulary.learn(TEXTS, 60, ALPHABET)
    assert again == pieces and again.digest == pieces.digest
    other = SubwordVocabulary.learn(TEXTS, 34, ALPHABET)
    assert other.digest != pieces.digest and len(other) == 34


def test_fewer_tokens_than_characters_are_not_made() -> None:
    found = SubwordVocabulary.learn(TEXTS, 16, ALPHABET)
    assert set(ALPHABET) <= set(found.tokens)


def test_texts_without_a_word_are_refused() -> None:
    with pytest.raises(ModelError, match="no text holds a word"):
        SubwordVocabulary.learn(["", ""], 60, ALPHABET)


def test_a_folder_holds_tokens_and_sentencepieces_own_model(
    pieces: SubwordVocabulary, tmp_path: Path
) -> None:
    pieces.save(tmp_path / "tokens.txt")
    assert load_vocabulary(tmp_path / "tokens.txt") == pieces
    tool = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / SUBWORDS_FILE))
    assert tool.encode("the light") == pieces.encode("the light")
    # What is served reads tokens alone: it writes texts, and cuts none.
    served = Vocabulary.load(tmp_path / "tokens.txt")
    assert served.decode(pieces.encode("the light")) == "the light"
    with pytest.raises(ModelError, match=SUBWORDS_FILE):
        served.encode("the light")


def test_a_damaged_model_or_another_ones_tokens_are_named(
    pieces: SubwordVocabulary, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.txt"
    SubwordVocabulary.learn(TEXTS, 34, ALPHABET).save(path)
    Vocabulary.save(pieces, path)
    with pytest.raises(ModelError, match="not those of tokens.txt"):
        load_vocabulary(path)
    (tmp_path / SUBWORDS_FILE).write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be used"):
        load_vocabulary(path)


def test_boundaries_that_part_no_words_are_left_out(pieces: SubwordVocabulary) -> None:
    space, the, s = (pieces.tokens.index(token) for token in (SPACE, "|the", "s"))
    assert pieces.tidy([space, the, 0, space, space, the, s, space]) == [the, the, s]
    assert pieces.tidy([the, space, s]) == [the, space, s]
    letters = Vocabulary.from_alphabet("ab")
    a, b = letters.encode("ab")
    assert letters.tidy([1, a, 1, 1, b, 0, 1]) == [a, 1, b]
    assert letters.tidy([1]) == letters.tidy([]) == []
