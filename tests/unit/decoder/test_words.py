"""Words of a text, their times and their evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillery.data.text import BLANK, SPACE, Vocabulary
from distillery.decoder.confidence import Confidence
from distillery.decoder.words import Alternative, HeardWord, Transcript, Word, heard_words

LETTERS = Vocabulary.from_alphabet("abc")  # <blank> | a b c


def frames(vocabulary: Vocabulary, path: str, sure: float = 0.9) -> np.ndarray:
    """Return log-probabilities whose best path is this, `_` being the blank."""
    rows = np.full((len(path), len(vocabulary)), (1 - sure) / (len(vocabulary) - 1))
    for row, token in zip(rows, path, strict=True):
        row[0 if token == "_" else vocabulary.tokens.index(token)] = sure
    return np.log(rows).astype(np.float32)


def test_words_begin_with_their_first_token_and_end_behind_their_last() -> None:
    log_probs = frames(LETTERS, "__aa_b_|__c__")
    found = heard_words(log_probs, LETTERS.encode("ab c"), LETTERS)
    odds = pytest.approx(math.log(9), rel=1e-5)  # of 0.9
    assert found == [HeardWord("ab", 2, 6, odds), HeardWord("c", 10, 11, odds)]


def test_a_text_without_a_word_has_none() -> None:
    assert heard_words(frames(LETTERS, "_|_"), [1], LETTERS) == []


def test_pieces_make_words_and_say_where_these_begin() -> None:
    pieces = Vocabulary((BLANK, SPACE, "|a", "b", "ab"))
    log_probs = np.log(np.full((8, len(pieces)), 0.02, np.float32))
    for frame, token in enumerate((2, 3, 0, 2, 2, 1, 4, 0)):
        log_probs[frame, token] = math.log(0.9)
    found = heard_words(log_probs, [2, 3, 2, 1, 4, 1], pieces)
    assert [(word.text, word.first, word.behind) for word in found] == [
        ("ab", 0, 2),
        ("a", 3, 5),
        ("ab", 6, 7),
    ]


def test_characters_of_one_piece_share_its_frames() -> None:
    pieces = Vocabulary((BLANK, SPACE, "|日本", "語"))
    log_probs = np.log(np.full((3, len(pieces)), 0.02, np.float32))
    for frame, token in enumerate((2, 0, 3)):
        log_probs[frame, token] = math.log(0.9)
    found = heard_words(log_probs, [2, 3], pieces)
    assert [(word.text, word.first, word.behind) for word in found] == [
        ("日", 0, 1),
        ("本", 0, 1),
        ("語", 2, 3),
    ]


def test_scripts_without_spaces_have_their_characters_for_words() -> None:
    characters = Vocabulary.from_alphabet("日本語")
    found = heard_words(frames(characters, "日_本"), characters.encode("日本"), characters)
    assert [(word.text, word.first, word.behind) for word in found] == [("日", 0, 1), ("本", 2, 3)]


def test_times_are_frames_and_confidence_is_that_of_the_evidence() -> None:
    heard = HeardWord("ab", 3, 5, 2.0)
    assert heard.word(0.04, None) == Word("ab", pytest.approx(0.12), pytest.approx(0.2), None)
    assert heard.word(0.04, Confidence(-1.0, 0.5, 1, 0.0)).confidence == 0.5


def test_what_is_written_is_rounded() -> None:
    word, other = Word("ab", 0.12000001, 1 / 3, 2 / 3), Alternative("a b", -1.23456)
    text = {"text": "ab", "words": [{**vars(word), "start": 0.12, "end": 0.333}]}
    text["words"][0]["confidence"] = 0.667
    assert Transcript("ab", (word,)).entries == text
    n_best = [{"text": "a b", "score": -1.235}]
    assert Transcript("ab", (word,), (other,)).entries == {**text, "n_best": n_best}
    assert Word("a", 0.0, 1.0, None).entries["confidence"] is None
