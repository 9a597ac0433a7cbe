"""Entropy pruning: what is dropped, and that probabilities stay probabilities."""

from __future__ import annotations

import math

import pytest

from distillery.data.units import Unit
from distillery.decoder.pruning import history_counts, prune
from distillery.language_model.ngrams import END, START, NGramModel, estimate

TEXTS = ["go to a", "go to b", "go to a", "stop", "go on", "a b a", "b a to go", "go to a b"]


def total(model: NGramModel, history: tuple[str, ...]) -> float:
    return sum(model.probability(word, history) for word in [*model.words, END, "<unk>"])


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("threshold", [1e-4, 1e-2, 0.1, 10.0])
def test_probabilities_add_up_to_one_whatever_is_dropped(order: int, threshold: float) -> None:
    model = estimate(TEXTS, order)
    pruned = prune(model, history_counts(TEXTS, order, Unit.WORD), threshold)
    assert pruned.words == model.words
    for history in [(), (START,), ("go",), ("go", "to"), ("a", "b"), (START, "go")]:
        assert total(pruned, history) == pytest.approx(1.0, abs=1e-6)


def test_more_is_dropped_the_higher_the_threshold() -> None:
    model, counts = estimate(TEXTS, 3), history_counts(TEXTS, 3, Unit.WORD)
    sizes = [len(prune(model, counts, limit).probabilities) for limit in (0, 1e-3, 1e-2, 10.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2]
    assert sizes[0] == len(model.probabilities)
    assert sizes[-1] == len(model.words) + 3  # <unk>, <s> and </s>


def test_what_goes_first_changes_the_model_least() -> None:
    """The rise of the perplexity is that of the two models, summed over what follows a history."""
    model, counts = estimate(TEXTS, 2), history_counts(TEXTS, 2, Unit.WORD)
    changes = {}
    for ngram in [gram for gram in model.probabilities if len(gram) == 2]:
        history = ngram[:-1]
        left = {gram: p for gram, p in model.probabilities.items() if gram != ngram}
        own = [gram for gram in left if len(gram) == 2 and gram[:-1] == history]
        mass = 1 - sum(left[gram] for gram in own)
        shorter = 1 - sum(model.probability(gram[-1], ()) for gram in own)
        without = NGramModel(2, left, {**model.backoffs, history: mass / shorter})
        words = [*model.words, END, "<unk>"]
        loss = sum(
            p * (math.log(p) - math.log(without.probability(word, history)))
            for word in words
            if (p := model.probability(word, history)) > 0
        )
        changes[ngram] = math.expm1(counts[history] / counts[()] * loss)
    limit = sorted(changes.values())[len(changes) // 2]
    pruned = prune(model, counts, limit * (1 + 1e-9))
    gone = {gram for gram in model.probabilities if gram not in pruned.probabilities}
    assert gone == {gram for gram, change in changes.items() if change <= limit * (1 + 1e-9)}
