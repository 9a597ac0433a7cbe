"""An n-gram model of words, estimated from transcripts, and the files that a decoder reads.

    lm.arpa      the model in the ARPA format, logarithms to base 10
    lexicon.txt  every word and its spelling in the tokens of CTC models: `two` TAB `t w o |`

Where characters are what texts are counted in, they stand for the words, `|` for a space between
them, and no word boundary stands behind their spellings: `天` TAB `天`.

The estimate is interpolated modified Kneser-Ney smoothing, for a history h of n - 1 words, h' that
history without its first word, and c the count of an n-gram:

    p(w|h) = (c(hw) - D(c(hw))) / Σ_v c(hv) + γ(h) p(w|h'),   γ(h) = Σ_v D(c(hv)) / Σ_v c(hv)

Below the highest order, c counts in how many different words' company an n-gram is seen to the
left; n-grams at the start of a sentence, which nothing precedes, keep their plain counts. Below
the words stands the uniform distribution over all words, the end of a sentence and `<unk>`.
D(1), D(2) and D(3 and more) come from how many n-grams are seen once to four times:

    D(k) = k - (k + 1) · n₁ / (n₁ + 2 n₂) · n_{k+1} / n_k

Source: Chen and Goodman (1998), "An Empirical Study of Smoothing Techniques for Language
Modeling", TR-10-98, Harvard; interpolation of the words as in Heafield et al. (2013), "Scalable
Modified Kneser-Ney Language Model Estimation".
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.data.text import SPACE, Vocabulary
from distillery.data.units import Unit
from distillery.errors import CorpusError
from distillery.files import write_bytes

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
ARPA_FILE = "lm.arpa"
LEXICON_FILE = "lexicon.txt"
NEVER = -99.0
"""What the format writes as the logarithm of probability 0."""
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where counts are too few to estimate D from."""

NGram = tuple[str, ...]


@dataclass(frozen=True)
class NGramModel:
    """Probabilities of n-grams that were seen, and the weight of shorter ones after a history."""

    order: int
    probabilities: Mapping[NGram, float]
    """p(last word | those before) of every n-gram seen, 1 to `order` words long."""
    backoffs: Mapping[NGram, float]
    """γ of every history seen, 1 to `order` - 1 words long."""

    @property
    def words(self) -> list[str]:
        """The words that were seen, in code point order."""
        others = {START, END, UNKNOWN}
        return sorted(g[0] for g in self.probabilities if len(g) == 1 and g[0] not in others)

    def probability(self, word: str, history: Sequence[str]) -> float:
        """Return p(word | history): of the longest n-gram seen, by γ of the histories passed over.

        Args:
            word: a word or END; every word that was never seen is UNKNOWN.
            history: the words before it, START first where they begin the sentence.
        """
        known = [item if (item,) in self.probabilities else UNKNOWN for item in history]
        target = word if (word,) in self.probabilities else UNKNOWN
        context = tuple(known[max(0, len(known) - self.order + 1) :])
        weight = 1.0
        while (*context, target) not in self.probabilities:
            weight *= self.backoffs.get(context, 1.0)
            context = context[1:]
        return weight * self.probabilities[*context, target]

    def save(self, path: Path) -> None:
        """Write the ARPA file; equal models give equal bytes."""
        levels: list[list[NGram]] = [[] for _ in range(self.order)]
        for ngram in sorted(self.probabilities):
            levels[len(ngram) - 1].append(ngram)
        lines = ["\\data\\", *(f"ngram {n}={len(level)}" for n, level in enumerate(levels, 1))]
        for n, level in enumerate(levels, 1):
            lines += ["", f"\\{n}-grams:", *map(self._line, level)]
        write_bytes(path, "\n".join([*lines, "", "\\end\\", ""]).encode())

    def _line(self, ngram: NGram) -> str:
        chance = self.probabilities[ngram]
        shown = f"{math.log10(chance) if chance else NEVER:.6f}\t{' '.join(ngram)}"
        backoff = self.backoffs.get(ngram)
        return shown if backoff is None else f"{shown}\t{math.log10(backoff):.6f}"


def estimate(texts: Iterable[str], order: int, unit: Unit = Unit.WORD) -> NGramModel:
    """Return the model of some texts; their order does not matter.

    Args:
        texts: normalised transcripts, one sentence each.
        order: words in the longest n-grams, 2 or more.
        unit: what counts as a word.

    Raises:
        CorpusError: no text holds a word.
    """
    plain = _plain_counts(texts, order, unit)
    if not any(ngram[0] not in (START, END) for ngram in plain[0]):
        raise CorpusError(
            f"language model: none of {plain[0][START,]} transcripts of the training split holds "
            "a word; it needs some, so add transcripts, or set language_model to null"
        )
    probabilities: dict[NGram, float] = {}
    backoffs: dict[NGram, float] = {}
    uniform = 1 / len(plain[0])  # UNKNOWN takes the place of START, which follows no word
    for n in range(1, order + 1):
        counts = plain[n - 1] if n == order else _adjusted_counts(plain[n - 1], plain[n])
        counts.pop((START,), None)
        discounts = discounts_of(counts.values())
        totals: dict[NGram, int] = defaultdict(int)
        taken: dict[NGram, list[int]] = defaultdict(lambda: [0, 0, 0])
        for ngram, count in counts.items():
            totals[ngram[:-1]] += count
            taken[ngram[:-1]][min(count, 3) - 1] += 1
        gammas = {
            context: sum(d * seen for d, seen in zip(discounts, taken[context], strict=True)) / sum_
            for context, sum_ in totals.items()
        }
        for ngram, count in counts.items():
            context = ngram[:-1]
            shorter = probabilities[ngram[1:]] if n > 1 else uniform
            own = (count - discounts[min(count, 3) - 1]) / totals[context]
            probabilities[ngram] = own + gammas[context] * shorter
        if n == 1:
            probabilities[UNKNOWN,] = gammas.pop(()) * uniform
            probabilities[START,] = 0.0
        backoffs |= gammas
    return NGramModel(order, probabilities, backoffs)


def _plain_counts(texts: Iterable[str], order: int, unit: Unit) -> list[Counter[NGram]]:
    """Return how often every n-gram of 1 to `order` words stands in the sentences."""
    counts: list[Counter[NGram]] = [Counter() for _ in range(order)]
    for text in texts:
        words = (START, *parts_of(text, unit), END)
        for n in range(1, order + 1):
            counts[n - 1].update(words[i : i + n] for i in range(len(words) - n + 1))
    return counts


def parts_of(text: str, unit: Unit) -> list[str]:
    """Return what n-grams are of: words, or characters and the spaces between them, as tokens."""
    return text.split() if unit is Unit.WORD else list(SPACE.join(text.split()))


def _adjusted_counts(plain: Counter[NGram], longer: Counter[NGram]) -> Counter[NGram]:
    """Return how many different words precede each n-gram, plain counts at a sentence's start."""
    adjusted = Counter(ngram[1:] for ngram in longer)
    adjusted.update({ngram: count for ngram, count in plain.items() if ngram[0] == START})
    return adjusted


def discounts_of(counts: Iterable[int]) -> tuple[float, ...]:
    """Return D(1), D(2) and D(3 and more) for n-grams of one length.

    Args:
        counts: how often each of them was seen.
    """
    of_counts = Counter(counts)
    seen = [of_counts[k] for k in range(1, 5)]
    if not all(seen[:3]):
        return FALLBACK_DISCOUNTS
    y = seen[0] / (seen[0] + 2 * seen[1])
    found = tuple(k - (k + 1) * y * seen[k] / seen[k - 1] for k in (1, 2, 3))
    return found if all(0 < d <= k for k, d in enumerate(found, 1)) else FALLBACK_DISCOUNTS


def write_lexicon(
    words: Iterable[str], vocabulary: Vocabulary, path: Path, unit: Unit = Unit.WORD
) -> None:
    """Write how each word is spelt, a word boundary behind it; words without tokens are left out.

    Args:
        words: all different.
        vocabulary: tokens of the models that are decoded.
        path: where to write.
        unit: what the words are; no boundary stands behind a character.
    """
    boundary = [SPACE] if unit is Unit.WORD else []
    spelt = sorted(word for word in words if word != SPACE and not vocabulary.unknown(word))
    lines = (f"{word}\t{' '.join([*word, *boundary])}\n" for word in spelt)
    write_bytes(path, "".join(lines).encode())
