"""Several recognisers' texts combined into one: ROVER, and the simple alternative, the surest one.

Source: Fiscus (1997), "A post-processing system to yield reduced word error rates: Recognizer
Output Voting Error Reduction (ROVER)". The first text is a chain of slots with one word each;
every further text is aligned with the slots there are, at the least cost,

    0  its word already stands in the slot, or it is silent where somebody else was silent
    1  another word in the slot (substitution), silence in the slot (deletion), a slot of its own
       (insertion)

and then each slot is put to the vote. The score of a word w that the recognisers S(w) say is

    a · |S(w)| / N  +  (1 - a) · mean of c(s) over S(w)

with c the recognisers' confidences in their texts. Silence is a candidate like any word, so that
the confidence of silence, a constant in the paper, is that of the recognisers that are silent. What
comes first among equals is what the earliest of them said: put the best recogniser in front.

rapidfuzz aligns sequences of single words; slots hold several, so the alignment is made here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from distillery.data.units import Unit
from distillery.errors import DistilleryError

SILENCE = ""


@dataclass(frozen=True)
class Combined:
    """One text of a word transition network."""

    text: str
    score: float
    """ln of the product, over the slots, of the share of the slot's score that its word has."""


def transition_network(texts: Sequence[str], unit: Unit = Unit.WORD) -> list[list[str]]:
    """Return the slots, each `(recognisers,)`: what every one says there, SILENCE for nothing.

    Args:
        texts: each recogniser's words, separated by spaces.
        unit: what stands in a slot; a character may be a space.
    """
    slots: list[list[str]] = []
    for number, text in enumerate(texts):
        slots = _align(slots, _parts(text, unit), number)
    return slots


def vote(
    slots: Sequence[Sequence[str]],
    confidences: Sequence[float],
    weights: Sequence[float] | None = None,
    count_share: float = 0.5,
) -> list[dict[str, float]]:
    """Return each slot's words with their share of its score, the winner first.

    Args:
        slots: from `transition_network`.
        confidences: of the recognisers in their texts, in [0, 1].
        weights: of the recognisers in count and mean; None: equal.
        count_share: `a` of the formula; 1 counts voices only, 0 asks the surest ones.

    Raises:
        DistilleryError: not as many confidences or weights as recognisers, or a weight that is not
            above zero.
    """
    voices = [1.0] * len(confidences) if weights is None else list(weights)
    if any(not voice > 0 for voice in voices):
        raise DistilleryError(
            f"vote: weights {voices}, expected numbers above 0; leave out who has no say"
        )
    if len(voices) != len(confidences) or any(len(slot) != len(voices) for slot in slots):
        raise DistilleryError(
            f"vote: {len(confidences)} confidences and {len(voices)} weights for slots of "
            f"{sorted({len(slot) for slot in slots})} recognisers; give one of each per recogniser"
        )
    return [_shares(slot, confidences, voices, count_share) for slot in slots]


def n_best(
    votes: Sequence[dict[str, float]], num_texts: int, unit: Unit = Unit.WORD
) -> list[Combined]:
    """Return the texts of the greatest products of shares, best first; the first is ROVER's.

    Slots are independent, so keeping the best of every prefix of the network finds them all.

    Args:
        votes: from `vote`.
        num_texts: how many are wanted; texts that differ only in silences are one.
        unit: what the slots hold.
    """
    best: dict[tuple[str, ...], float] = {(): 0.0}
    for shares in votes:
        longer: dict[tuple[str, ...], float] = {}
        for words, score in best.items():
            for word, share in shares.items():
                if share > 0:
                    key = (*words, word) if word else words
                    longer[key] = max(longer.get(key, -math.inf), score + math.log(share))
        best = dict(heapq.nlargest(num_texts, longer.items(), key=lambda item: item[1]))
    return [Combined(unit.joined(words), score) for words, score in best.items()]


def rover(
    texts: Sequence[str],
    confidences: Sequence[float],
    weights: Sequence[float] | None = None,
    count_share: float = 0.5,
    num_texts: int = 1,
    unit: Unit = Unit.WORD,
) -> list[Combined]:
    """Return the recognisers' texts combined, best first; arguments as above."""
    slots = transition_network(texts, unit)
    return n_best(vote(slots, confidences, weights, count_share), num_texts, unit)


def best_of(confidences: Sequence[float], weights: Sequence[float] | None = None) -> int:
    """Return which recogniser is surest, its confidence times its weight; the first among equals.

    Args:
        confidences: of the recognisers in their texts.
        weights: of the recognisers; None: equal.
    """
    voices = [1.0] * len(confidences) if weights is None else weights
    products = [c * w for c, w in zip(confidences, voices, strict=True)]
    return products.index(max(products))


def _parts(text: str, unit: Unit) -> list[str]:
    """Return what stands in slots: words, or all characters, so that spaces are not lost."""
    return text.split() if unit is Unit.WORD else list(text)


def _align(slots: list[list[str]], words: list[str], number: int) -> list[list[str]]:
    """Return the slots with one more text, said by recogniser `number`, in them."""
    width = len(words) + 1
    costs = [list(range(width))]  # [slots passed][words passed]
    for slot in slots:
        above = costs[-1]
        silence = _silence_cost(slot)
        row = [above[0] + silence]
        for position, word in enumerate(words):
            joined = above[position] + (word not in slot)
            row.append(min(joined, above[position + 1] + silence, row[-1] + 1))
        costs.append(row)
    aligned: list[list[str]] = []
    i, j = len(slots), len(words)
    while i or j:
        slot = slots[i - 1] if i else []
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (words[j - 1] not in slot):
            aligned.append([*slot, words[j - 1]])
            i, j = i - 1, j - 1
        elif i and costs[i][j] == costs[i - 1][j] + _silence_cost(slot):
            aligned.append([*slot, SILENCE])
            i -= 1
        else:
            aligned.append([*[SILENCE] * number, words[j - 1]])
            j -= 1
    return aligned[::-1]


def _silence_cost(slot: Sequence[str]) -> int:
    return int(SILENCE not in slot)


def _shares(
    slot: Sequence[str], confidences: Sequence[float], voices: Sequence[float], count_share: float
) -> dict[str, float]:
    scores = {}
    for word in dict.fromkeys(slot):
        own = [index for index, said in enumerate(slot) if said == word]
        count = sum(voices[index] for index in own)
        sure = sum(voices[index] * confidences[index] for index in own) / count
        scores[word] = count_share * count / sum(voices) + (1 - count_share) * sure
    total = sum(scores.values())
    if total == 0:  # count_share 0 and nobody sure of anything
        return {word: 1 / len(scores) for word in scores}
    ranked = sorted(scores.items(), key=lambda item: -item[1])  # stable: the earliest first
    return {word: score / total for word, score in ranked}
