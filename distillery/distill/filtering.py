"""Which hypotheses of the teacher are fit to learn from; gross errors hurt students most.

Where there is a transcript it decides, by word errors, or character errors where characters are
what the corpus is counted in; so with repeated words. Otherwise the hypothesis must look sane:
the teacher was confident, its words do not loop, their number fits the audio's length, and two ways
of decoding agree. Sources: Gandhi et al. (2023), "Distil-Whisper" (word errors against a
transcript, arXiv 2311.00430); Chen et al. (2023), noisy student training in WeNet (agreement of
decodings and speaking rate, arXiv 2211.04717); NVIDIA's Granary (repeated n-grams, arXiv
2505.13404).
"""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.scoring import count_errors
from distillery.data.units import Unit
from distillery.params.distill import FilterParams

FILTER_FILE = "filter.json"
NUM_BINS = 10


@dataclass(frozen=True)
class Candidate:
    """One utterance as the filter sees it."""

    hypothesis: str
    """The teacher's best path."""
    confidence: float
    """Geometric mean of that path's probabilities, in [0, 1]."""
    seconds: float
    """Length of the audio."""
    reference: str | None = None
    """The transcript, if there is one."""
    other_decoding: str | None = None
    """The best of several hypotheses, if the cache keeps several."""


def fault(candidate: Candidate, params: FilterParams, unit: Unit = Unit.WORD) -> str | None:
    """Return the first reason not to learn from a hypothesis, None where it is fit.

    Args:
        candidate: the hypothesis, and what is known of its utterance.
        params: the thresholds.
        unit: what errors and repetitions are counted in.
    """
    words = unit.parts(candidate.hypothesis)
    if candidate.reference is not None:
        errors = count_errors(unit.parts(candidate.reference), words)
        return f"{unit}_errors" if errors.rate > params.max_wer else None
    characters_per_second = len(candidate.hypothesis) / candidate.seconds
    if characters_per_second < params.min_characters_per_second:
        return "too_few_characters"
    if characters_per_second > params.max_characters_per_second:
        return "too_many_characters"
    if candidate.confidence < params.min_confidence:
        return "low_confidence"
    if repeats_more_than(words, params.max_repeats):
        return "repetition"
    if params.max_disagreement is not None and candidate.other_decoding is not None:
        errors = count_errors(candidate.other_decoding, candidate.hypothesis)
        return "decodings_disagree" if errors.rate > params.max_disagreement else None
    return None


def repeats_more_than(words: Sequence[str], max_repeats: int) -> bool:
    """Return whether some words, one or several, stand more than so often in a row.

    Args:
        words: of a text; its characters where they are what it is counted in.
        max_repeats: how often they may.
    """
    for size in range(1, len(words) // (max_repeats + 1) + 1):
        # n copies in a row: (n - 1) x size times in a row a word equals the one `size` before it.
        equal = (a == b for a, b in zip(words, words[size:], strict=False))
        runs = (len(list(run)) for same, run in itertools.groupby(equal) if same)
        if max(runs, default=0) >= max_repeats * size:
            return True
    return False


@dataclass(frozen=True)
class ConfidenceCounts:
    """How many hypotheses the teacher was how sure of."""

    edges: Sequence[float]
    """Of the bins of confidence, one more than there are bins."""
    kept: Sequence[int]
    """Hypotheses in each bin that may be learnt from."""
    dropped: Sequence[int]
    """The others."""


@dataclass(frozen=True)
class FilterReport:
    """What filter.json holds, beside a student."""

    num_hypotheses: int
    """The teacher's texts that were looked at."""
    num_kept: int
    """Those that may be learnt from."""
    dropped: Mapping[str, int]
    """How many of the others there are, by reason."""
    hours: float
    """Audio of all."""
    hours_kept: float
    """Audio of those that may be learnt from."""
    confidence: ConfidenceCounts
    """By tenths."""


@dataclass(frozen=True)
class Filtered:
    """What the filter decided about a training split, in the order of its utterances."""

    faults: Sequence[str | None]
    seconds: np.ndarray
    """Length of each `(utterances,)`."""
    confidences: np.ndarray
    """The teacher's, in each of its hypotheses `(utterances,)`."""

    @property
    def fit(self) -> np.ndarray:
        """Where a hypothesis may be learnt from: bool `(utterances,)`."""
        return np.array([fault is None for fault in self.faults], bool)

    def report(self) -> FilterReport:
        """Return counts by reason, hours, and confidences by tenths."""
        fit = self.fit
        seconds, confidences = self.seconds, np.clip(self.confidences, 0, 1)
        edges = np.linspace(0, 1, NUM_BINS + 1)
        return FilterReport(
            num_hypotheses=len(fit),
            num_kept=int(fit.sum()),
            dropped=dict(sorted(Counter(filter(None, self.faults)).items())),
            hours=round(float(seconds.sum()) / SECONDS_PER_HOUR, 6),
            hours_kept=round(float(seconds[fit].sum()) / SECONDS_PER_HOUR, 6),
            confidence=ConfidenceCounts(
                edges=[round(float(edge), 6) for edge in edges],
                kept=np.histogram(confidences[fit], edges)[0].tolist(),
                dropped=np.histogram(confidences[~fit], edges)[0].tolist(),
            ),
        )

    def describe_drops(self) -> str:
        """Return the reasons with their counts, in one line."""
        return ", ".join(f"{count} {reason}" for reason, count in self.report().dropped.items())

    def lines(self) -> list[str]:
        """Return the report as lines for the log; confidences where one was too low."""
        report = self.report()
        both = zip(report.confidence.kept, report.confidence.dropped, strict=True)
        tenths = " ".join(f"{kept}+{dropped}" for kept, dropped in both)
        return [
            f"filter: {report.num_kept} of {report.num_hypotheses} hypotheses kept, "
            f"{report.hours_kept:.3f} of {report.hours:.3f} hours",
            *(f"filter: dropped {reason} {count}" for reason, count in report.dropped.items()),
            *(
                [f"filter: kept+dropped by confidence, tenths from 0 to 1: {tenths}"]
                if "low_confidence" in report.dropped
                else []
            ),
        ]


def filter_hypotheses(
    candidates: Iterable[Candidate], params: FilterParams, unit: Unit = Unit.WORD
) -> Filtered:
    """Return the verdict on every hypothesis of a training split; arguments as for `fault`.

    Candidates are read once, and none of them is kept.
    """
    faults: list[str | None] = []
    seconds, confidences = array("d"), array("d")
    for candidate in candidates:
        faults.append(fault(candidate, params, unit))
        seconds.append(candidate.seconds)
        confidences.append(candidate.confidence)
    return Filtered(faults, np.array(seconds), np.array(confidences))


def read_report(folder: Path) -> FilterReport | None:
    """Return the report that lies beside a student, None where nothing was filtered."""
    path = folder / FILTER_FILE
    return TypeAdapter(FilterReport).validate_json(path.read_bytes()) if path.exists() else None
