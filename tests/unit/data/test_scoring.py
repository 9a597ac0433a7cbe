import json
import tracemalloc
from pathlib import Path

import jiwer
import numpy as np
import pytest
from scipy.stats import bootstrap

from distillery.data import scoring
from distillery.data.scoring import (
    Counts,
    bootstrap_interval,
    count_errors,
    count_text_errors,
    paired_bootstrap,
    rate_over_seeds,
)
from distillery.data.units import Unit
from distillery.errors import DistilleryError

EXPECTED = json.loads(
    (Path(__file__).parents[2] / "expected" / "error_counts.json").read_text("utf-8")
)


@pytest.mark.parametrize(
    ("phrases", "text", "missing"),
    [
        ("two shots; large", "a large latte with two shots please", 0),
        ("two shots; large", "a larger latte with two big shots", 2),
        ("two shots", "shots two", 1),
        ("large", "", 1),
        ("", "anything", 0),
        ("latte; latte macchiato", "latte", 1),
        ("大杯", "我要 一 大 杯 咖啡", 0),
        ("小杯", "我要一大杯咖啡", 1),
    ],
)
def test_expected_phrases_stand_in_a_text_or_are_missing(
    phrases: str, text: str, missing: int
) -> None:
    found = count_text_errors(phrases, text, Unit.PHRASE)
    assert found == Counts(0, missing, 0, len(Unit.PHRASE.parts(phrases)))


def test_against_the_teachers_texts_words_are_counted() -> None:
    assert count_text_errors("a b c", "a c", Unit.TEACHER_WORD) == Counts(0, 1, 0, 3)
    assert count_text_errors("a b", "ab", Unit.TEACHER_CHARACTER) == Counts(0, 0, 0, 2)


@pytest.mark.parametrize("case", EXPECTED["words"], ids=str)
def test_word_errors_are_those_counted_by_hand(case: dict) -> None:
    found = count_errors(case["reference"].split(), case["hypothesis"].split())
    assert found == Counts(*case["counts"])


@pytest.mark.parametrize("case", EXPECTED["characters"], ids=str)
def test_character_errors_are_those_counted_by_hand(case: dict) -> None:
    expected = Counts(*case["counts"])
    assert count_errors(case["reference"], case["hypothesis"]) == expected
    assert count_errors(list(case["reference"]), list(case["hypothesis"])) == expected


def test_counts_add_up_to_a_corpus_rate_and_not_to_a_mean_of_rates() -> None:
    short, long = Counts(1, 0, 0, 1), Counts(1, 1, 1, 9)
    total = short + long
    assert total == Counts(2, 1, 1, 10)
    assert total.errors == 4
    assert total.rate == pytest.approx(0.4)  # the mean of 1/1 and 3/9 would be 0.67


def test_an_empty_reference_counts_as_one_item_long() -> None:
    assert Counts(0, 0, 2, 0).rate == 2.0
    assert Counts(0, 0, 0, 0).rate == 0.0


def random_sentences(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [
        " ".join(generator.choice(["a", "b", "ab", "ba", "abc"], generator.integers(1, 9)))
        for _ in range(count)
    ]


def test_counts_agree_with_jiwer_on_random_strings() -> None:
    references, hypotheses = random_sentences(300, seed=1), random_sentences(300, seed=2)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words = jiwer.process_words(reference, hypothesis)
        assert count_errors(reference.split(), hypothesis.split()) == Counts(
            words.substitutions, words.deletions, words.insertions, len(words.references[0])
        )
        characters = jiwer.process_characters(reference, hypothesis)
        assert count_errors(reference, hypothesis) == Counts(
            characters.substitutions, characters.deletions, characters.insertions, len(reference)
        )


def test_equal_utterances_leave_no_doubt() -> None:
    interval = bootstrap_interval(np.array([1, 1, 1]), np.array([4, 4, 4]), 100, 0.95, 0)
    assert interval == (0.25, 0.25)


def test_two_opposite_utterances_give_the_widest_interval() -> None:
    # a resample holds the bad one never, once or twice, with chances 1/4, 1/2, 1/4
    interval = bootstrap_interval(np.array([0, 5]), np.array([5, 5]), 2000, 0.95, 0)
    assert interval == (0.0, 1.0)
    middle = bootstrap_interval(np.array([0, 5]), np.array([5, 5]), 2000, 0.4, 0)
    assert middle == (0.5, 0.5)  # quantiles 0.3 and 0.7 both lie in the middle half


def test_the_interval_is_that_of_a_plain_loop_over_the_same_draws(monkeypatch) -> None:
    generator = np.random.default_rng(5)
    lengths = generator.integers(1, 30, 57)
    errors = generator.binomial(lengths, 0.2)
    drawn = np.random.default_rng(9).integers(0, 57, (211, 57), dtype=np.int32)
    rates = []
    for resample in drawn:
        rates.append(sum(int(errors[i]) for i in resample) / sum(int(lengths[i]) for i in resample))
    expected = (float(np.percentile(rates, 5)), float(np.percentile(rates, 95)))
    for block in (1, 57 * 10, 10**6):  # one resample at a time, ten, all
        monkeypatch.setattr(scoring, "BLOCK_DRAWS", block)
        assert bootstrap_interval(errors, lengths, 211, 0.9, 9) == pytest.approx(expected)


def test_memory_does_not_grow_with_the_number_of_resamples() -> None:
    errors, lengths = np.ones(5000, int), np.full(5000, 10)
    tracemalloc.start()
    bootstrap_interval(errors, lengths, 2000, 0.95, 0)  # ten million draws: 40 MB of indices
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 12e6


@pytest.mark.parametrize("count", [2, 57, 2620])
def test_intervals_are_those_of_scipy(count: int) -> None:
    generator = np.random.default_rng(count)
    lengths = generator.integers(1, 30, count)
    errors = generator.binomial(lengths, 0.2)
    theirs = bootstrap(
        (errors, lengths),
        lambda errors, lengths, axis: errors.sum(axis=axis) / lengths.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=500,
        method="percentile",
        rng=np.random.default_rng(9),
    ).confidence_interval
    found = bootstrap_interval(errors, lengths, 500, 0.95, 9)
    assert found == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_nine_in_ten_intervals_hold_the_true_rate() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for experiment in range(300):
        lengths = generator.integers(3, 20, 120)
        errors = generator.binomial(lengths, 0.2)
        low, high = bootstrap_interval(errors, lengths, 300, 0.9, experiment)
        held += low <= 0.2 <= high
    assert 0.83 <= held / 300 <= 0.96  # 0.9 within four standard errors


def test_a_constant_difference_is_found_and_significant() -> None:
    result = paired_bootstrap(np.array([2, 3, 1]), np.array([1, 2, 0]), np.full(3, 5), 100, 0.95, 0)
    assert (result.difference, result.low, result.high) == pytest.approx((0.2, 0.2, 0.2))
    assert result.significant


def test_a_worse_system_differs_significantly_below_zero() -> None:
    result = paired_bootstrap(np.array([0, 1]), np.array([1, 2]), np.full(2, 4), 100, 0.95, 0)
    assert result.high == pytest.approx(-0.25)
    assert result.significant


def test_equal_systems_do_not_differ() -> None:
    errors = np.array([3, 0, 2])
    result = paired_bootstrap(errors, errors, np.full(3, 5), 100, 0.95, 0)
    assert (result.difference, result.low, result.high) == (0, 0, 0)
    assert not result.significant


def test_a_difference_on_one_utterance_of_many_is_not_significant() -> None:
    errors_a, errors_b = np.zeros(40, int), np.zeros(40, int)
    errors_a[7] = 1
    result = paired_bootstrap(errors_a, errors_b, np.full(40, 5), 1000, 0.95, 0)
    assert result.difference == pytest.approx(1 / 200)
    assert result.low == 0.0  # a third of the resamples miss that utterance
    assert not result.significant


def test_pairing_sees_what_two_separate_intervals_miss() -> None:
    generator = np.random.default_rng(4)
    lengths = np.full(200, 20)
    errors_b = generator.binomial(lengths, generator.beta(1, 4, 200))  # hard and easy utterances
    errors_a = errors_b + (generator.random(200) < 0.3)
    result = paired_bootstrap(errors_a, errors_b, lengths, 1000, 0.95, 0)
    low_a, _ = bootstrap_interval(errors_a, lengths, 1000, 0.95, 0)
    _, high_b = bootstrap_interval(errors_b, lengths, 1000, 0.95, 0)
    assert low_a < high_b
    assert result.significant


def test_one_seed_gives_what_the_plain_functions_give() -> None:
    generator = np.random.default_rng(6)
    errors_a, errors_b = generator.integers(0, 5, (2, 30))
    lengths = generator.integers(5, 9, 30)
    alone = rate_over_seeds(errors_a[None], lengths, 300, 0.9, 2)
    assert alone.by_seed == (errors_a.sum() / lengths.sum(),)
    assert (alone.low, alone.high) == bootstrap_interval(errors_a, lengths, 300, 0.9, 2)
    assert alone.sd is None
    paired = paired_bootstrap(errors_a, errors_b, lengths, 300, 0.9, 2)
    result = rate_over_seeds((errors_a - errors_b)[None], lengths, 300, 0.9, 2)
    assert (result.mean, result.low, result.high) == (paired.difference, paired.low, paired.high)


def test_seeds_are_averaged_and_their_spread_told() -> None:
    errors = np.array([[1, 0, 2], [3, 0, 0], [2, 3, 1]])  # 3, 3 and 6 errors in 12 words
    result = rate_over_seeds(errors, np.array([4, 4, 4]), 2000, 0.9, 0)
    assert result.by_seed == (0.25, 0.25, 0.5)
    assert result.mean == pytest.approx(1 / 3)
    assert result.sd == pytest.approx(0.25 / 3**0.5)
    # the utterances make 2, 1 and 1 errors on average: a resample makes 3, 4, 5 or 6 of them, with
    # chances 8/27, 12/27, 6/27 and 1/27
    assert (result.low, result.high) == pytest.approx((3 / 12, 5 / 12))


def test_seeds_that_are_not_stacked_are_refused() -> None:
    with pytest.raises(DistilleryError, match=r"shape \(3,\), expected \(seeds, utterances\)"):
        rate_over_seeds(np.ones(3), np.ones(3), 100, 0.95, 0)
    with pytest.raises(DistilleryError, match=r"shape \(0, 3\), .*at least one seed"):
        rate_over_seeds(np.ones((0, 3)), np.ones(3), 100, 0.95, 0)


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    errors, lengths = np.arange(20), np.full(20, 30)
    first = bootstrap_interval(errors, lengths, 200, 0.95, 0)
    assert bootstrap_interval(errors, lengths, 200, 0.95, 0) == first
    assert bootstrap_interval(errors, lengths, 200, 0.95, 1) != first


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(DistilleryError, match=r"shapes \(0,\) and \(0,\).*at least one"):
        bootstrap_interval(np.array([]), np.array([]), 100, 0.95, 0)


def test_utterances_that_do_not_pair_are_refused() -> None:
    with pytest.raises(DistilleryError, match=r"shapes \(2,\) and \(3,\), expected the same"):
        bootstrap_interval(np.ones(2), np.ones(3), 100, 0.95, 0)
    with pytest.raises(DistilleryError, match=r"shapes \(3,\) and \(2,\), expected the same"):
        paired_bootstrap(np.ones(3), np.ones(2), np.ones(3), 100, 0.95, 0)


@pytest.mark.parametrize("block", [1, 7, 200, 10**6])
def test_whole_errors_are_tallied_to_the_rates_of_any_others(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Differences of errors may be below zero; halves go through sums of floats."""
    generator = np.random.default_rng(2)
    lengths = generator.integers(1, 6, 83)
    less = generator.integers(-3, 4, 83)
    monkeypatch.setattr(scoring, "BLOCK_DRAWS", block)
    low, high = bootstrap_interval(less, lengths, 50, 0.9, 4)
    assert bootstrap_interval(less / 2, lengths, 50, 0.9, 4) == (low / 2, high / 2)
