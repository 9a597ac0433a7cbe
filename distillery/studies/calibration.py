"""How far a recogniser's confidence can be believed: expected calibration error.

    ECE = Σ_m |B_m| / n · | accuracy(B_m) - confidence(B_m) |

over equal-width bins of the confidence, B_m those samples whose confidence lies in
((m-1)/M, m/M]. Source: Guo et al. (2017), "On calibration of modern neural networks", eq. 3.

What a sample is depends on what a recogniser gives:

    frames    every token of the greedy text. Its confidence is the greatest probability that the
              token has among the frames that say it; it is right where a minimal alignment with the
              reference (Levenshtein) pairs it with an equal token. Tokens that are missing from the
              text have no confidence and count nowhere: a recogniser may be well calibrated and
              deaf, so read it beside the error rate. Blank frames, which are nearly all sure and
              right, are no samples either: they would hide the rest.
    texts     every utterance: its confidence against whether the whole text is right.

The two are not comparable with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from distillery.errors import DistilleryError
from distillery.models.decoding import BLANK_INDEX

NUM_BINS = 15
"""As Guo et al. have it."""


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram."""

    low: float
    high: float
    num_samples: int
    confidence: float
    """Mean over its samples; 0 where there are none."""
    accuracy: float
    """Share of its samples that are right; 0 where there are none."""


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram and what it sums up to."""

    bins: tuple[Bin, ...]

    @property
    def num_samples(self) -> int:
        """Samples of all bins."""
        return sum(item.num_samples for item in self.bins)

    @property
    def expected_error(self) -> float | None:
        """The expected calibration error, in [0, 1]; None without samples."""
        if not self.num_samples:
            return None
        gaps = sum(item.num_samples * abs(item.accuracy - item.confidence) for item in self.bins)
        return gaps / self.num_samples


@dataclass(frozen=True)
class Outcomes:
    """How sure a recogniser was, and whether it was right."""

    confidences: list[float]  # (samples,)
    correct: list[bool]  # (samples,)

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.confidences + other.confidences, self.correct + other.correct)


def token_outcomes(log_probs: np.ndarray, reference: Sequence[int]) -> Outcomes:
    """Return one sample for each token of an utterance's greedy text.

    Args:
        log_probs: `(frames, vocab)`.
        reference: tokens of the text spoken.
    """
    best = log_probs.argmax(axis=-1)  # (frames,)
    starts = np.flatnonzero(np.diff(best, prepend=-1))  # of runs of equal tokens
    if not len(starts):
        return Outcomes([], [])
    spoken = best[starts] != BLANK_INDEX
    sure = np.maximum.reduceat(np.exp(log_probs.max(axis=-1)), starts)[spoken]
    tokens = best[starts][spoken].tolist()
    correct = [False] * len(tokens)
    for block in Levenshtein.opcodes(list(reference), tokens):
        if block.tag == "equal":
            correct[block.dest_start : block.dest_end] = [True] * (
                block.dest_end - block.dest_start
            )
    return Outcomes(np.minimum(sure, 1.0).tolist(), correct)


def text_outcomes(
    confidences: Sequence[float], hypotheses: Sequence[str], references: Sequence[str]
) -> Outcomes:
    """Return one sample for each utterance.

    Args:
        confidences: of a recogniser in its texts, in [0, 1].
        hypotheses: those texts.
        references: what was spoken, normalised alike.
    """
    pairs = zip(hypotheses, references, strict=True)
    return Outcomes(list(confidences), [said == spoken for said, spoken in pairs])


def calibration(outcomes: Outcomes, num_bins: int = NUM_BINS) -> Calibration:
    """Return the reliability diagram of some samples.

    Args:
        outcomes: the samples.
        num_bins: bins of equal width over [0, 1]; confidence 0 falls into the first.

    Raises:
        DistilleryError: a confidence outside [0, 1], or not as many outcomes.
    """
    sure = np.asarray(outcomes.confidences, dtype=np.float64)
    right = np.asarray(outcomes.correct, dtype=np.float64)
    if sure.shape != right.shape:
        raise DistilleryError(
            f"calibration: {len(sure)} confidences and {len(right)} outcomes, expected as many; "
            "give one of each per sample"
        )
    if outside := [value for value in sure.tolist() if not 0 <= value <= 1]:
        raise DistilleryError(
            f"calibration: confidence {outside[0]}, expected one in [0, 1]; give probabilities, "
            "not scores or log-probabilities"
        )
    edges = np.arange(num_bins + 1) / num_bins
    owners = np.maximum(np.searchsorted(edges, sure, side="left") - 1, 0)
    counts, sums, hits = (
        np.bincount(owners, weights=values, minlength=num_bins)
        for values in (np.ones_like(sure), sure, right)
    )
    filled = np.maximum(counts, 1)
    return Calibration(
        tuple(
            Bin(float(low), float(high), int(count), float(mean), float(accuracy))
            for low, high, count, mean, accuracy in zip(
                edges, edges[1:], counts, sums / filled, hits / filled, strict=False
            )
        )
    )
