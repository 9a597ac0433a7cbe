"""How fast errors are counted and intervals found, against jiwer.

    python -m benchmarks.scoring [--rounds 9]

A test set of LibriSpeech's size is generated: 2,620 utterances of 3 to 40 words, about a tenth of
them wrong. Times are CPU time on one core, medians of paired rounds. Rows go to
benchmarks/results/scoring.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import jiwer
import numpy as np

from benchmarks.common import paired_medians, report, row
from distillery.data.scoring import Counts, bootstrap_interval, count_errors, paired_bootstrap

NUM_UTTERANCES = 2620
NUM_RESAMPLES = 1000
VOCABULARY = [f"word{index}" for index in range(2000)]
MIN_SPEED_UP = 2.0
MAX_INTERVAL_MS = 30.0
SUBSTITUTED, DELETED, INSERTED = 0.06, 0.03, 0.02


def test_set(seed: int) -> tuple[list[str], list[str]]:
    """Return references and hypotheses with a tenth of the words wrong."""
    generator = np.random.default_rng(seed)
    references, hypotheses = [], []
    for length in generator.integers(3, 41, NUM_UTTERANCES):
        words = generator.choice(VOCABULARY, length).tolist()
        references.append(" ".join(words))
        hypotheses.append(" ".join(corrupt(words, generator)))
    return references, hypotheses


def corrupt(words: list[str], generator: np.random.Generator) -> list[str]:
    """Return a recogniser's kind of mistakes: words replaced, dropped and added."""
    heard: list[str] = []
    for word in words:
        chance = generator.random()
        if chance < DELETED:
            continue
        is_wrong = chance < DELETED + SUBSTITUTED
        heard.append(str(generator.choice(VOCABULARY)) if is_wrong else word)
        if generator.random() < INSERTED:
            heard.append(str(generator.choice(VOCABULARY)))
    return heard


def count_all(references: list[str], hypotheses: list[str]) -> list[Counts]:
    """Return the counts of every utterance, splitting into words included."""
    return [
        count_errors(reference.split(), hypothesis.split())
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]


def measure(rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    references, hypotheses = test_set(seed=0)
    counts = count_all(references, hypotheses)
    theirs = jiwer.process_words(references, hypotheses)
    ours = sum(counts, Counts(0, 0, 0, 0))
    same = (ours.substitutions, ours.deletions, ours.insertions) == (
        theirs.substitutions,
        theirs.deletions,
        theirs.insertions,
    )
    own_seconds, jiwer_seconds = paired_medians(
        [
            lambda: count_all(references, hypotheses),
            lambda: jiwer.process_words(references, hypotheses),
        ],
        rounds,
    )
    errors = np.array([item.errors for item in counts])
    lengths = np.array([item.reference_length for item in counts])
    shuffled = np.random.default_rng(1).permutation(errors)
    one, paired = paired_medians(
        [
            lambda: bootstrap_interval(errors, lengths, NUM_RESAMPLES, 0.95, 0),
            lambda: paired_bootstrap(errors, shuffled, lengths, NUM_RESAMPLES, 0.95, 0),
        ],
        rounds,
    )
    return [
        counts_row(jiwer_seconds / own_seconds, own_seconds, same),
        interval_row("bootstrap interval", one),
        interval_row("paired bootstrap", paired),
    ]


def counts_row(speed_up: float, own_seconds: float, same: bool) -> dict[str, Any]:
    """Return the row about S, D and I."""
    agreement = "equal counts" if same else "DIFFERENT COUNTS"
    pairs = f"{NUM_UTTERANCES / own_seconds:.0f} pairs per CPU second"
    return row(
        "substitutions, deletions and insertions of 2,620 utterances",
        speed_up,
        "times jiwer's speed",
        f"at least {MIN_SPEED_UP:g}, counts equal",
        same and speed_up >= MIN_SPEED_UP,
        f"jiwer.process_words, {agreement}; {pairs}",
    )


def interval_row(name: str, seconds: float) -> dict[str, Any]:
    """Return the row about an interval."""
    return row(
        f"{name}, 1,000 resamples of 2,620 utterances",
        1000 * seconds,
        "ms of CPU time",
        f"at most {MAX_INTERVAL_MS:g}",
        1000 * seconds <= MAX_INTERVAL_MS,
        "one call",
    )


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rows = measure(parser.parse_args().rounds)
    report("scoring", rows)


if __name__ == "__main__":
    main()
