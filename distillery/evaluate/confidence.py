"""How sure a student may be of its words: fitted on those of the validation split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import minimize

from distillery.data.text import Vocabulary
from distillery.data.units import Unit
from distillery.decoder.confidence import MAX_LOG_ODDS, Confidence
from distillery.decoder.decoder import Decoder
from distillery.decoder.words import heard_words
from distillery.models.decoding import greedy_tokens
from distillery.studies.calibration import Outcomes, calibration

MAX_SLOPE = 5.0
"""Five times the log-odds that the network itself gives."""


def fit_confidence(
    items: Sequence[np.ndarray],
    references: Sequence[str],
    vocabulary: Vocabulary,
    decoder: Decoder | None,
    unit: Unit,
) -> Confidence | None:
    """Return offset and slope of the highest likelihood; None where no word was heard.

    A word counts as right where a minimal alignment with the transcript (Levenshtein) pairs it with
    an equal one. As in Platt (1999), right words aim a little below 1 and wrong ones a little above
    0, so that a few words, or words that are all right, make nobody certain.

    Args:
        items: log-probabilities `(frames, vocab)` of each utterance.
        references: their transcripts.
        vocabulary: the tokens.
        decoder: what searches the texts; None: best paths.
        unit: what errors are counted in.
    """
    evidence: list[float] = []
    right: list[bool] = []
    for log_probs, reference in zip(items, references, strict=True):
        if decoder is None:
            said: Sequence[int] = greedy_tokens(log_probs)
        else:
            said = decoder.n_best(log_probs, 1)[0].tokens
        words = heard_words(log_probs, said, vocabulary)
        evidence += [word.evidence for word in words]
        right += _right(unit.parts(reference), [word.text for word in words])
    if not right:
        return None
    offset, slope = _fit(np.array(evidence), np.array(right))
    fitted = Confidence(offset, slope, len(right), 0.0)
    outcomes = Outcomes([fitted.of(value) for value in evidence], right)
    error = calibration(outcomes).expected_error
    return Confidence(offset, slope, len(right), error or 0.0)


def _right(reference: Sequence[str], words: Sequence[str]) -> list[bool]:
    """Return which words are right."""
    found = [False] * len(words)
    for block in Levenshtein.opcodes(reference, words):
        if block.tag == "equal":
            found[block.dest_start : block.dest_end] = [True] * (block.dest_end - block.dest_start)
    return found


def _fit(evidence: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Return offset and slope for `(words,)` of evidence, and whether they are right.

    A few words may be parted by a step: the slope is bounded, and more evidence never means less.
    """
    hits, misses = int(right.sum()), int((~right).sum())
    aims = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))

    def loss(found: np.ndarray) -> float:
        odds = found[0] + found[1] * evidence
        return float((np.logaddexp(0, odds) - aims * odds).mean())

    bounds = [(-MAX_LOG_ODDS, MAX_LOG_ODDS), (0.0, MAX_SLOPE)]
    offset, slope = minimize(loss, np.array([0.0, 1.0]), bounds=bounds).x
    return float(offset), float(slope)
