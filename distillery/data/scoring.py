"""Error counts, error rates and how far they can be trusted.

Rates are corpus rates: the errors of all utterances over the reference length of all utterances,

    WER = (S + D + I) / N

with S, D and I from a minimal alignment (Levenshtein; rapidfuzz finds it). Intervals come from the
percentile bootstrap over utterances, and two systems are compared on the same resamples (Bisani
and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", 2004).
Utterances are aligned once; only their counts are resampled.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from rapidfuzz.distance import Levenshtein

from distillery.data.units import Unit, unit_of
from distillery.errors import DistilleryError

BLOCK_DRAWS = 2**16
"""Utterances drawn at once: what is made of them stays in the processor's cache."""


@dataclass(frozen=True)
class Counts:
    """What an alignment counted; counts of several utterances add up to a corpus's."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference item, as a fraction; an empty reference counts as one item long."""
        return self.errors / max(1, self.reference_length)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )


@dataclass(frozen=True)
class PairedResult:
    """How much system a errs more than system b, with its interval."""

    difference: float
    """rate of a - rate of b, as a fraction; above zero, b is better."""
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class SeedsResult:
    """A rate, or a difference of rates, of one set-up trained from one or several seeds."""

    by_seed: tuple[float, ...]
    """The corpus rate under each seed, as a fraction."""
    low: float
    """Lower end of the interval of the mean."""
    high: float

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.by_seed)

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds (n - 1 below the line), None with one seed."""
        return spread(self.by_seed)

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero; of use for differences."""
        return self.low > 0 or self.high < 0


def spread(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample (n - 1 below the line), None for one value."""
    return statistics.stdev(values) if len(values) > 1 else None


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """Return the counts of a minimal alignment.

    Args:
        reference: the words spoken, as a list; a plain string is taken character by character.
        hypothesis: what was recognised, in the same form.
    """
    if reference == hypothesis:
        return Counts(0, 0, 0, len(reference))
    tags = [edit.tag for edit in Levenshtein.editops(reference, hypothesis)]
    return Counts(
        tags.count("replace"),
        tags.count("delete"),
        tags.count("insert"),
        len(reference),
    )


def count_text_errors(reference: str, hypothesis: str, unit: Unit) -> Counts:
    """Return the errors in a text, as the data are counted.

    Of expected phrases those are errors that do not stand in the hypothesis, each a deletion: their
    words must follow one another there, in their order, while phrases may come in any order. In a
    script without spaces the characters must.

    Args:
        reference: the transcript, or the expected phrases with semicolons between.
        hypothesis: what was recognised.
        unit: what errors are counted in.
    """
    if unit is not Unit.PHRASE:
        return count_errors(unit.parts(reference), unit.parts(hypothesis))
    phrases = unit.parts(reference)
    missing = sum(not holds_phrase(hypothesis, phrase) for phrase in phrases)
    return Counts(0, missing, 0, len(phrases))


def holds_phrase(text: str, phrase: str) -> bool:
    """Return whether the words of a phrase follow one another in a text, both normalised."""
    if unit_of(Counter(phrase)) is Unit.CHARACTER:
        return "".join(phrase.split()) in "".join(text.split())
    return f" {' '.join(phrase.split())} " in f" {' '.join(text.split())} "


def bootstrap_interval(
    errors: np.ndarray,
    lengths: np.ndarray,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Return the percentile interval of the corpus rate.

    Utterances are resampled as if they were independent. Those of one speaker are not quite: with
    few speakers the true interval is wider.

    Args:
        errors: errors of each utterance `(utterances,)`.
        lengths: reference length of each utterance `(utterances,)`.
        num_resamples: how often the test set is resampled.
        confidence: coverage of the interval, in (0, 1).
        seed: fixes the resamples; equal seeds and sizes draw the same utterances.

    Raises:
        DistilleryError: no utterance, or arrays of different shapes.
    """
    rates = _resampled_rates(errors, lengths, num_resamples, seed)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_bootstrap(
    errors_a: np.ndarray,
    errors_b: np.ndarray,
    lengths: np.ndarray,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> PairedResult:
    """Return the difference of two systems' corpus rates with its percentile interval.

    Both systems are judged on the same resamples, so what makes an utterance hard for both cancels
    out. Resampled by utterance, as `bootstrap_interval`.

    Args:
        errors_a: errors of system a in each utterance `(utterances,)`.
        errors_b: errors of system b in the same utterances `(utterances,)`.
        lengths: reference length of each utterance `(utterances,)`.
        num_resamples: how often the test set is resampled.
        confidence: coverage of the interval, in (0, 1).
        seed: fixes the resamples.

    Raises:
        DistilleryError: no utterance, or arrays of different shapes.
    """
    _check_shapes(errors_a, errors_b)
    more_errors = np.asarray(errors_a, np.int64) - np.asarray(errors_b, np.int64)
    low, high = bootstrap_interval(more_errors, lengths, num_resamples, confidence, seed)
    return PairedResult(float(more_errors.sum() / max(1, lengths.sum())), low, high)


def rate_over_seeds(
    errors: np.ndarray,
    lengths: np.ndarray,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> SeedsResult:
    """Return the corpus rate under each seed, and the interval of their mean.

    The errors of an utterance are averaged over the seeds, then utterances are resampled as in
    `bootstrap_interval`: the interval says how far these seeds' mean can be trusted beyond this
    test set, the standard deviation how far one more seed may be off. For a paired comparison,
    pass differences of errors; with one seed it gives what `paired_bootstrap` gives.

    Args:
        errors: errors of each utterance under each seed `(seeds, utterances)`, or differences.
        lengths: reference length of each utterance `(utterances,)`.
        num_resamples: how often the test set is resampled.
        confidence: coverage of the interval, in (0, 1).
        seed: fixes the resamples, not a training.

    Raises:
        DistilleryError: no seed, no utterance, or numbers of utterances that differ.
    """
    if errors.ndim != 2 or not len(errors):
        raise DistilleryError(
            f"errors over seeds: an array of shape {errors.shape}, expected (seeds, utterances) "
            "with at least one seed; stack one row per seed"
        )
    low, high = bootstrap_interval(errors.mean(axis=0), lengths, num_resamples, confidence, seed)
    total = max(1, lengths.sum())
    return SeedsResult(tuple(float(row.sum() / total) for row in errors), low, high)


def _resampled_rates(
    errors: np.ndarray, lengths: np.ndarray, num_resamples: int, seed: int
) -> np.ndarray:
    """Return the corpus rate of each resample `(resamples,)`."""
    _check_shapes(errors, lengths)
    pairs = errors + 1j * lengths  # one gather for both; sums of integers stay exact
    sums_of = _Tally(pairs).sums if _is_whole(errors) else partial(_gathered, pairs)
    generator, count = np.random.default_rng(seed), len(pairs)
    per_block = max(1, BLOCK_DRAWS // count)
    totals = np.concatenate(
        [
            sums_of(generator, min(per_block, num_resamples - start))
            for start in range(0, num_resamples, per_block)
        ]
    )
    rates: np.ndarray = totals.real / np.maximum(totals.imag, 1)
    return rates


def _gathered(pairs: np.ndarray, generator: np.random.Generator, num_resamples: int) -> np.ndarray:
    """Return the sums of pairs in some resamples `(resamples,)`, complex."""
    size = (num_resamples, len(pairs))
    drawn = generator.integers(0, len(pairs), size, dtype=np.int32)
    sums: np.ndarray = pairs.take(drawn).sum(axis=1)
    return sums


class _Tally:
    """Sums of pairs that are whole numbers, from how often each kind of pair is drawn.

    Many utterances have as many errors and words as others have. A byte or two that name a pair's
    kind stay in the processor's cache, where a million pairs do not.
    """

    def __init__(self, pairs: np.ndarray) -> None:
        kinds, codes = np.unique(pairs, return_inverse=True)
        self._kinds = np.stack([kinds.real, kinds.imag], axis=1).astype(np.int64)
        self._codes = codes.astype(np.min_scalar_type(len(kinds)))

    def sums(self, generator: np.random.Generator, num_resamples: int) -> np.ndarray:
        """Return the sums in some resamples `(resamples,)`, complex."""
        count, num_kinds = len(self._codes), len(self._kinds)
        tally = np.zeros(num_resamples * num_kinds, np.int64)
        offsets = num_kinds * np.arange(num_resamples)[:, None]
        for start in range(0, count, BLOCK_DRAWS):  # once, where there are several resamples
            size = (num_resamples, min(BLOCK_DRAWS, count - start))
            drawn = self._codes.take(generator.integers(0, count, size, dtype=np.int32))
            if num_resamples > 1:
                drawn = drawn + offsets
            tally += np.bincount(drawn.ravel(), minlength=len(tally))
        totals = tally.reshape(num_resamples, num_kinds) @ self._kinds
        sums: np.ndarray = totals[:, 0] + 1j * totals[:, 1]
        return sums


def _is_whole(errors: np.ndarray) -> bool:
    return bool((errors == np.rint(errors)).all())


def _check_shapes(errors: np.ndarray, others: np.ndarray) -> None:
    if errors.ndim != 1 or errors.shape != others.shape or not len(errors):
        raise DistilleryError(
            f"bootstrap: arrays of shapes {errors.shape} and {others.shape}, expected the same "
            "number of utterances in both, and at least one; score the same utterances"
        )
