import itertools
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.data.text import Vocabulary
from distillery.errors import CorpusError
from distillery.language_model.ngrams import (
    END,
    START,
    UNKNOWN,
    NGramModel,
    discounts_of,
    estimate,
    write_lexicon,
)

WORDS = ["ab", "b", "c", "ca"]
texts = st.lists(
    st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=30
).filter(any)
orders = st.integers(2, 4)
RICH = ["h a", "f a", "a", "e", "a", "a f", "c", "c"]


def read_arpa(path: Path) -> tuple[dict[str, float], dict[str, float], list[int]]:
    """Return log10 of probabilities and back-offs by n-gram, and the counts of the head."""
    chances, backoffs, claimed = {}, {}, []
    for line in path.read_text("utf-8").splitlines():
        fields = line.split("\t")
        if line.startswith("ngram "):
            claimed.append(int(line.split("=")[1]))
        elif len(fields) > 1:
            chances[fields[1]] = float(fields[0])
            if len(fields) == 3:
                backoffs[fields[1]] = float(fields[2])
    return chances, backoffs, claimed


def read_off(arpa: tuple[dict[str, float], dict[str, float], list[int]], *words: str) -> float:
    """Return log10 p of the last word after the others, as the format defines it."""
    chances, backoffs, _ = arpa
    if " ".join(words) in chances:
        return chances[" ".join(words)]
    return backoffs.get(" ".join(words[:-1]), 0.0) + read_off(arpa, *words[1:])


def by_hand(
    sentences: list[str], order: int, discounts: dict[int, tuple[Fraction, ...]]
) -> dict[tuple[str, ...], Fraction]:
    """Return p of every n-gram of every length over all words, straight from the formula."""
    lines = [[START, *text.split(), END] for text in sentences]
    words = [*sorted({word for line in lines for word in line[1:]}), UNKNOWN]

    def plain(ngram: tuple[str, ...]) -> int:
        n = len(ngram)
        return sum(tuple(line[i : i + n]) == ngram for line in lines for i in range(len(line)))

    def count(ngram: tuple[str, ...]) -> int:
        if len(ngram) == order or ngram[0] == START:
            return plain(ngram)
        return sum(plain((left, *ngram)) > 0 for left in [START, *words])

    def discount(n: int, seen: int) -> Fraction:
        return Fraction(0) if seen == 0 else discounts[n][min(seen, 3) - 1]

    found: dict[tuple[str, ...], Fraction] = {}
    for n in range(1, order + 1):
        for history in itertools.product([START, *words], repeat=n - 1):
            counts = {word: count((*history, word)) for word in words}
            total = sum(counts.values())
            gamma = sum((discount(n, c) for c in counts.values()), Fraction(0))
            for word, c in counts.items():
                shorter = found[*history[1:], word] if n > 1 else Fraction(1, len(words))
                if total == 0:
                    found[*history, word] = shorter
                else:
                    own = c - discount(n, c)
                    found[*history, word] = own / total + gamma / total * shorter
    return found


def counts_by_hand(sentences: list[str], n: int, order: int) -> Counter[tuple[str, ...]]:
    """Return the counts of all n-grams of one length: plain, or of words to the left."""
    lines = [[START, *text.split(), END] for text in sentences]
    longer = {tuple(line[i : i + n + 1]) for line in lines for i in range(len(line) - n)}
    plain = Counter(tuple(line[i : i + n]) for line in lines for i in range(len(line) - n + 1))
    lefts = Counter(ngram[1:] for ngram in longer)
    chosen = {g: c if n == order or g[0] == START else lefts[g] for g, c in plain.items()}
    return Counter({g: c for g, c in chosen.items() if g != (START,)})


def assert_equal(model: NGramModel, wanted: dict[tuple[str, ...], Fraction]) -> None:
    for ngram, chance in wanted.items():
        assert model.probability(ngram[-1], ngram[:-1]) == pytest.approx(float(chance), rel=1e-9)


def test_probabilities_are_those_of_the_formula_where_counts_are_few() -> None:
    sentences = ["a b", "a", "b a a", "", "a b"]
    few = (Fraction(1, 2), Fraction(1), Fraction(3, 2))
    assert_equal(estimate(sentences, 3), by_hand(sentences, 3, dict.fromkeys((1, 2, 3), few)))


def test_probabilities_are_those_of_the_formula_where_counts_are_rich() -> None:
    discounts = {}
    for n in (1, 2):
        seen = Counter(counts_by_hand(RICH, n, 2).values())
        y = Fraction(seen[1], seen[1] + 2 * seen[2])
        discounts[n] = tuple(k - (k + 1) * y * seen[k + 1] / seen[k] for k in (1, 2, 3))
        assert all(0 < d <= k for k, d in enumerate(discounts[n], 1))
    assert_equal(estimate(RICH, 2), by_hand(RICH, 2, discounts))


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        # n = 4, 2, 1, 1: y = 4 / 8; 1 - 2 y 2/4, 2 - 3 y 1/2, 3 - 4 y 1/1
        ([1, 1, 1, 1, 2, 2, 3, 4, 9], (0.5, 1.25, 1.0)),
        ([1, 1, 2, 2, 2, 2, 2, 2, 3], (1 / 7, 2 - 3 / 7 / 6, 3.0)),  # y = 2 / 14
        ([1, 1, 2, 5], (0.5, 1.0, 1.5)),  # nothing is seen three times
        ([], (0.5, 1.0, 1.5)),
        ([1, 2, 3, 3, 3], (0.5, 1.0, 1.5)),  # D(2) would be 2 - 3 / 3 · 3, below zero
    ],
)
def test_discounts_are_worked_out_by_hand(counts: list[int], wanted: tuple[float, ...]) -> None:
    assert discounts_of(counts) == pytest.approx(wanted)


@settings(max_examples=20, deadline=None)
@given(sentences=texts, order=orders)
def test_probabilities_after_any_history_sum_to_one(sentences: list[str], order: int) -> None:
    model = estimate(sentences, order)
    words = [*model.words, START, END, UNKNOWN]
    for history in itertools.product([START, "ab", "c", "never seen"], repeat=order - 1):
        assert sum(model.probability(word, history) for word in words) == pytest.approx(1.0)
        assert sum(model.probability(word, history[1:]) for word in words) == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(sentences=texts, order=orders)
def test_the_arpa_file_read_as_its_format_says_gives_the_estimate(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[str], order: int
) -> None:
    path = tmp_path_factory.mktemp("arpa") / "lm.arpa"
    model = estimate(sentences, order)
    model.save(path)
    arpa = read_arpa(path)
    lengths = Counter(len(ngram.split(" ")) for ngram in arpa[0])
    assert arpa[2] == [lengths[n] for n in range(1, order + 1)]
    for words in itertools.product([START, *model.words], repeat=order - 1):
        for last in [*model.words, END, UNKNOWN]:
            chance = math.log10(model.probability(last, words))
            assert read_off(arpa, *words, last) == pytest.approx(chance, abs=1e-5)


def test_equal_texts_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    estimate(RICH, 3).save(tmp_path / "a.arpa")
    estimate(RICH[::-1], 3).save(tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()
    estimate(RICH[1:], 3).save(tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_bytes() != (tmp_path / "b.arpa").read_bytes()


def test_a_word_never_seen_is_as_probable_as_the_unknown_one() -> None:
    model = estimate(RICH, 2)
    for history in (["c"], [START], ["never", "seen"]):
        found = model.probability("unheard", history)
        assert found == model.probability(UNKNOWN, history)


def test_texts_without_a_word_are_refused() -> None:
    with pytest.raises(CorpusError, match="none of 2 transcripts of the training split holds a"):
        estimate(["", ""], 3)


def test_the_lexicon_spells_words_that_have_tokens(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_alphabet("ab'")
    write_lexicon(["ba", "a'b", "é", "a"], vocabulary, tmp_path / "lexicon.txt")
    lines = (tmp_path / "lexicon.txt").read_text("utf-8").splitlines()
    assert lines == ["a\ta |", "a'b\ta ' b |", "ba\tb a |"]
