"""Token tables compared by content; every number that is not worked out here is a property."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.text import Vocabulary
from distillery.teachers.token_map import (
    NoMap,
    TokenMap,
    TokenTable,
    case_of,
    corpus_text,
    match_tokens,
    texts_of,
)

ABC = Vocabulary.from_alphabet("abc")
LIBRISPEECH = ("-", *"|ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""What torchaudio's English bundles have."""
HF_960H = ("<pad>", "<s>", "</s>", "<unk>", *LIBRISPEECH[1:])
"""What vocab.json of a Wav2Vec2 model has."""


def mapped(table: TokenTable, corpus: Vocabulary = ABC, *transcripts: str) -> TokenMap:
    found = match_tokens(table, corpus, transcripts)
    assert isinstance(found, TokenMap), found
    return found


@pytest.mark.parametrize(
    ("tokens", "blank"),
    [
        (("<blank>", "|", "a", "b", "c"), 0),
        (("-", "|", "A", "B", "C"), 0),
        (("c", "▁", "b", "a", "[PAD]"), 4),
        (("a", " ", "<pad>", "c", "b"), 2),
        (("<space>", "B", "a", "", "c"), 3),
        (("|", "a", "b", "c", "|"), 4),  # a blank may even be called like the boundary
    ],
)
def test_equal_tables_are_remapped_exactly(tokens: tuple[str, ...], blank: int) -> None:
    table = TokenTable(tokens, blank)
    token_map = mapped(table)
    values = torch.arange(5.0)
    assert token_map.is_exact and token_map.vocabulary == ABC
    remapped = token_map.apply(values)
    assert remapped[0] == values[blank]
    for token, value in zip("abc", remapped[2:].tolist(), strict=True):
        assert tokens[int(value)].lower() == token


@pytest.mark.parametrize("tokens", [LIBRISPEECH, HF_960H])
def test_published_english_tables_fit_the_usual_alphabet(tokens: tuple[str, ...]) -> None:
    corpus = Vocabulary.from_alphabet("abcdefghijklmnopqrstuvwxyz'")
    token_map = mapped(TokenTable(tokens, 0), corpus, "it's a quiz")
    assert token_map.vocabulary == corpus
    assert token_map.is_exact == (tokens is LIBRISPEECH)
    assert [tokens[i] for i in token_map.dropped] == [t for t in tokens if t in HF_960H[1:4]]


def test_the_rest_is_renormalised_and_what_was_dropped_is_counted() -> None:
    table = TokenTable(("<blank>", "|", "a", "b", "c", "é", "<unk>"), 0)
    token_map = mapped(table, ABC, "ab c")
    probabilities = torch.tensor([0.1, 0.1, 0.2, 0.1, 0.3, 0.15, 0.05])
    ours = token_map.apply(probabilities.log())
    assert [table.tokens[i] for i in token_map.dropped] == ["é", "<unk>"]
    torch.testing.assert_close(ours.exp(), torch.tensor([0.125, 0.125, 0.25, 0.125, 0.375]))
    assert token_map.dropped_mass(probabilities.log()).item() == pytest.approx(0.2)


def test_both_cases_of_a_letter_are_added_up() -> None:
    table = TokenTable(("<blank>", "|", "a", "A", "b", "c"), 0)
    ours = mapped(table).apply(torch.tensor([0.1, 0.1, 0.25, 0.3, 0.15, 0.1]).log())
    torch.testing.assert_close(ours.exp(), torch.tensor([0.1, 0.1, 0.55, 0.15, 0.1]))


def test_punctuation_parts_words_as_the_text_rule_has_it() -> None:
    table = TokenTable(("<blank>", "|", "-", "a", "b", "c"), 0)
    assert mapped(table).groups[1] == (1, 2)


def test_a_corpus_that_keeps_case_tells_letters_apart() -> None:
    both = Vocabulary.from_alphabet("aAb")
    assert isinstance(match_tokens(TokenTable(("-", "|", "A", "B"), 0), both, ["Aa"]), NoMap)
    assert [case_of(Vocabulary.from_alphabet(text)) for text in ("ab'", "ABÉ", "aB")] == [
        "lower",
        "upper",
        "keep",
    ]


def test_characters_that_no_transcript_holds_may_be_missing() -> None:
    table = TokenTable(("-", "|", "a", "b"), 0)
    assert mapped(table, ABC, "a b").vocabulary.tokens == ("<blank>", "|", "a", "b")
    lacking = match_tokens(table, ABC, ["cab"])
    assert lacking == NoMap("it has no token for 'c', which transcripts of the corpus hold")


def test_a_table_without_word_boundary_has_no_map() -> None:
    found = match_tokens(TokenTable(("-", "a", "b", "c"), 0), ABC)
    assert isinstance(found, NoMap) and "the word boundary" in found.reason


def test_subwords_become_pieces_in_the_corpus_spelling() -> None:
    tokens = ("<unk>", "▁CAB", "▁cab", "▁", "A", "b", "▁é", "-", "B-a", "c.", "<blank>")
    token_map = mapped(TokenTable(tokens, 10), ABC, "cab abba")
    pieces = token_map.vocabulary
    assert pieces.tokens == ("<blank>", "|cab", "|", "a", "b")
    assert token_map.groups == ((10,), (1, 2), (3, 7), (4,), (5,))
    # What ends a word and begins another, and what the corpus has no character for, is no piece.
    assert [tokens[index] for index in token_map.dropped] == ["<unk>", "▁é", "B-a", "c."]
    assert [pieces.tokens[i] for i in pieces.encode("cab abba")] == ["|cab", "|", *"abba"]
    assert pieces.decode(pieces.encode("cab abba")) == "cab abba"
    probabilities = torch.tensor([0.1, 0.2, 0.1, 0.05, 0.1, 0.1, 0.05, 0.05, 0.03, 0.02, 0.2])
    expected = torch.tensor([0.2, 0.3, 0.1, 0.1, 0.1]) / 0.8
    torch.testing.assert_close(token_map.apply(probabilities.log()).exp(), expected)


def test_a_text_is_cut_into_the_fewest_of_a_teachers_pieces() -> None:
    table = TokenTable(("<blank>", "|", "a", "b", "ab", "bab", "▁ba"), 0)
    pieces = mapped(table, Vocabulary.from_alphabet("ab"), "bab ab").vocabulary
    assert [pieces.tokens[index] for index in pieces.encode("babab ab")] == [
        "|ba",
        "bab",
        "|",
        "ab",
    ]


def test_pieces_that_do_not_make_up_what_transcripts_hold_are_no_map() -> None:
    table = TokenTable(("<blank>", "▁ab", "c", "▁"), 0)
    lacking = match_tokens(table, ABC, ["abc cab", "ab b"])
    assert isinstance(lacking, NoMap)
    assert "do not make up 'b', 'cab', of 2 words in transcripts" in lacking.reason
    assert isinstance(match_tokens(table, ABC, ["abc c"]), TokenMap)
    found = match_tokens(TokenTable(("-", "a", "b", "bc"), 0), ABC)
    assert isinstance(found, NoMap) and "none is, or begins with, the word boundary" in found.reason


@st.composite
def tables(draw: st.DrawFn) -> TokenTable:
    """A character table in any order, with entries that mean nothing, in any mixture of cases."""
    tokens = ["<blank>", draw(st.sampled_from(["|", "▁", " "]))]
    for letter in "abc":
        tokens += draw(st.sampled_from([[letter], [letter.upper()], [letter, letter.upper()]]))
    tokens += draw(st.lists(st.sampled_from(["<unk>", "<s>", "é", "x"]), unique=True))
    order = draw(st.permutations(range(len(tokens))))
    return TokenTable(tuple(tokens[i] for i in order), order.index(0))


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 2**31))
def test_mapped_distributions_are_distributions(table: TokenTable, seed: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (4, len(table.tokens))))
    log_probs = scores.log_softmax(-1)
    token_map = mapped(table, ABC, "a b c")
    ours = token_map.apply(log_probs)
    torch.testing.assert_close(ours.exp().sum(-1), torch.ones(4, dtype=ours.dtype))
    kept = 1 - token_map.dropped_mass(log_probs)
    expected = log_probs[:, table.blank].exp() / kept
    torch.testing.assert_close(ours[:, 0].exp(), expected)
    assert sorted([*sum(token_map.groups, ()), *token_map.dropped]) == list(
        range(len(table.tokens))
    )


@settings(max_examples=60, deadline=None)
@given(tables(), st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_mapped_paths_say_what_the_model_says(table: TokenTable, path: list[int]) -> None:
    token_map = mapped(table, ABC, "a b c")
    own = [token_map.groups[token][0] for token in path]
    log_probs = np.full((len(path), len(table.tokens)), -9.0, np.float32)
    log_probs[np.arange(len(path)), own] = -0.1
    ours = token_map.apply(torch.from_numpy(log_probs)).numpy()
    plain = TokenTable(ABC.tokens, 0)
    assert best_text(log_probs, table) == best_text(ours, plain)


def best_text(log_probs: np.ndarray, table: TokenTable) -> str:
    ((text, _),) = texts_of(log_probs, table, ABC, num_hypotheses=1, beam_size=1)
    return text


def certain(path: list[int], num_tokens: int) -> np.ndarray:
    probabilities = np.full((len(path), num_tokens), 0.01, np.float32)
    probabilities[np.arange(len(path)), path] = 1 - 0.01 * (num_tokens - 1)
    return np.log(probabilities)


def test_subword_paths_become_the_corpus_spelling() -> None:
    table = TokenTable(("<unk>", "▁CAB", "▁b", "A", "é", "<blank>"), 5)
    path = [5, 1, 1, 5, 2, 3, 3, 5, 4, 0]
    assert best_text(certain(path, 6), table) == "cab ba"


def test_texts_are_spelt_once_and_scored_over_all_their_segmentations() -> None:
    # One frame: "a" is said by either of two tokens, so its probability is their sum.
    table = TokenTable(("<blank>", "▁", "a", "▁A", "b"), 0)
    log_probs = np.log(np.array([[0.1, 0.05, 0.3, 0.25, 0.3]], np.float32))
    found = texts_of(log_probs, table, ABC, num_hypotheses=3, beam_size=16)
    assert [text for text, _ in found] == ["a", "b", ""]
    assert [math.exp(score) for _, score in found] == pytest.approx([0.55, 0.3, 0.15], rel=1e-5)


def test_one_beam_takes_the_best_path_and_no_frames_give_no_text() -> None:
    table = TokenTable(("<blank>", "|", "a", "b", "c"), 0)
    ((text, score),) = texts_of(certain([2, 0, 3], 5), table, ABC, 1, 1)
    assert text == "ab" and score < 0
    assert texts_of(np.zeros((0, 5), np.float32), table, ABC, 4, 8) == [("", 0.0)]


def test_corpus_text_leaves_out_what_has_no_token() -> None:
    assert corpus_text("Cab, 3 é BA!", ABC) == "cab ba"


# --- other scripts -------------------------------------------------------------------------------


def test_signs_and_marks_map_onto_themselves_or_nothing() -> None:
    table = TokenTable(("<pad>", "|", "l", "·", "\u00ad", "i\u0307", "-"), 0)
    corpus = Vocabulary.from_alphabet("li·")
    groups = dict(zip(corpus.tokens, mapped(table, corpus).groups, strict=True))
    assert groups == {"<blank>": (0,), "|": (1, 6), "i": (5,), "l": (2,), "·": (3,)}
    without = mapped(table, Vocabulary.from_alphabet("li"))
    assert without.dropped == (3, 4)  # the dot parts no word


def test_a_teachers_text_follows_the_rule_of_the_references() -> None:
    catalan = Vocabulary.from_alphabet("coleció·")
    assert corpus_text("COL·LECCIÓ", catalan) == "col·lecció"
    assert corpus_text("col\u00ad·lecció", Vocabulary.from_alphabet("coleció")) == "collecció"
    persian = Vocabulary.from_alphabet("میخواه\u200c")
    assert corpus_text("می\u200cخواهم", persian) == "می\u200cخواهم"
    pointed = Vocabulary.from_alphabet("שלום")
    assert corpus_text("שָׁלוֹם\u200f", pointed) == "שלום"
