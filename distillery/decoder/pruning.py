"""N-grams without which a model says nearly the same: what a small device need not hold.

An n-gram hw is dropped where the model that backs off in its place is nearly the same one:

    D(p‖p') = -P(h) · { p(w|h) · [ln p(w|h') + ln α'(h) - ln p(w|h)]
                        + (ln α'(h) - ln α(h)) · (1 - Σ_v p(v|h)) }

over the v that are seen after h, with α' the back-off weight once hw is gone. What is dropped is
what raises the model's perplexity by less than a threshold, e^D - 1.

P(h) is how often h stands in the texts. Multiplied out of the model, as the source has it, it is
wrong for Kneser-Ney's lower orders, which tell in how many contexts words are seen.

Sources: Stolcke (1998), "Entropy-based Pruning of Backoff Language Models"; Chelba et al. (2010),
"Study on Interaction between Entropy Pruning and Kneser-Ney Smoothing", for P(h).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from distillery.data.units import Unit
from distillery.language_model.ngrams import START, NGram, NGramModel, parts_of

SMALLEST_LEFT = 1e-9
"""Probability mass that a history always leaves for words that are not seen after it."""


def history_counts(texts: Iterable[str], order: int, unit: Unit) -> Counter[NGram]:
    """Return how often each history of up to `order` - 1 words is followed by something.

    Args:
        texts: normalised, one sentence each.
        order: words in the model's longest n-grams.
        unit: what counts as a word.
    """
    counts: Counter[NGram] = Counter()
    for text in texts:
        words = (START, *parts_of(text, unit))
        for length in range(order):
            counts.update(words[i : i + length] for i in range(len(words) - length + 1))
    return counts


def prune(model: NGramModel, histories: Counter[NGram], threshold: float) -> NGramModel:
    """Return a model without the n-grams that raise its perplexity by less than a threshold.

    Words stay, whatever the threshold: they are what can be written.

    Args:
        model: of any order.
        histories: of `history_counts`, over the texts that the model was estimated from.
        threshold: relative rise of the perplexity, such as 1e-7; 0 drops nothing.
    """
    if threshold <= 0:
        return model
    probabilities, backoffs = dict(model.probabilities), dict(model.backoffs)
    total = max(1, histories[()])
    for n in range(model.order, 1, -1):
        followers: dict[NGram, list[NGram]] = defaultdict(list)
        for ngram in probabilities:
            if len(ngram) == n:
                followers[ngram[:-1]].append(ngram)
        pruned = NGramModel(n, probabilities, backoffs)
        for history, ngrams in followers.items():
            share = histories[history] / total
            for ngram in _droppable(pruned, history, ngrams, share, threshold):
                # A longer one, or a back-off weight, stands on it.
                if n == model.order or ngram not in backoffs:
                    del probabilities[ngram]
            left = [ngram for ngram in ngrams if ngram in probabilities]
            if left:
                backoffs[history] = _backoff(pruned, history, left)
            else:
                backoffs.pop(history, None)
    return NGramModel(model.order, probabilities, backoffs)


def _droppable(
    model: NGramModel, history: NGram, ngrams: list[NGram], share: float, threshold: float
) -> list[NGram]:
    """Return the n-grams after a history that change the model little, each by itself."""
    shorter = [model.probability(ngram[-1], history[1:]) for ngram in ngrams]
    own = [model.probabilities[ngram] for ngram in ngrams]
    left = max(SMALLEST_LEFT, 1 - math.fsum(own))
    left_shorter = max(SMALLEST_LEFT, 1 - math.fsum(shorter))
    alpha = left / left_shorter
    found = []
    for ngram, p, q in zip(ngrams, own, shorter, strict=True):
        new = (left + p) / max(SMALLEST_LEFT, left_shorter + q)
        change = p * (math.log(q * new) - math.log(p)) + left * math.log(new / alpha)
        if math.expm1(-share * change) < threshold:
            found.append(ngram)
    return found


def _backoff(model: NGramModel, history: NGram, ngrams: list[NGram]) -> float:
    """Return the weight that makes what is left after a history add up to one."""
    own = math.fsum(model.probabilities[ngram] for ngram in ngrams)
    shorter = math.fsum(model.probability(ngram[-1], history[1:]) for ngram in ngrams)
    return max(SMALLEST_LEFT, 1 - own) / max(SMALLEST_LEFT, 1 - shorter)
