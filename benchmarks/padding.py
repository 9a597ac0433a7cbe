"""How much of the batches is padding when the order of an epoch is random.

    python -m benchmarks.padding [--source FSDD] [--epochs 5]

Only lengths count: batches are planned, not gathered. FSDD's lengths are read from the recordings,
those like LibriSpeech's are drawn. Rows go to benchmarks/results/padding.json.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.common import report, row
from benchmarks.digits import FSDD_BATCH_SECONDS, recordings
from distillery.corpora.fsdd import NUM_TEST_TAKES
from distillery.data.features import PackedFeatures
from distillery.training.batches import TrainingSet

HOP_SECONDS = 0.01
NUM_LIBRISPEECH = 20_000
LIBRISPEECH_BATCHES = (60.0, 400.0)  # seconds; the default, and 32 utterances
LONG_FRACTION, LONG_MEAN, LONG_SPREAD = 0.7, 14.5, 1.5
SHORTEST, LONGEST_SHORT, LONGEST = 1.5, 13.0, 24.5
MAX_FSDD, MAX_LIBRISPEECH = 6.0, 2.0


def fsdd_seconds(source: Path) -> np.ndarray:
    """Return the lengths of the published training split."""
    paths = sorted((source / "recordings").glob("*.wav"))
    train = [path for path in paths if int(path.stem.split("_")[2]) >= NUM_TEST_TAKES]
    return np.array([soundfile.info(path).duration for path in train])


def librispeech_seconds(count: int) -> np.ndarray:
    """Return lengths like those of LibriSpeech's training parts, 12.3 s on average.

    The corpus was cut at silences into pieces of at most 35 s, most of them from 12 to 17 s; the
    rest, ends of chapters and short sentences, spreads evenly below.
    """
    random = np.random.default_rng(0)
    long = random.normal(LONG_MEAN, LONG_SPREAD, count)
    short = random.uniform(SHORTEST, LONGEST_SHORT, count)
    drawn = np.where(random.random(count) < LONG_FRACTION, long, short)
    return drawn.clip(SHORTEST, LONGEST)


def planned(seconds: np.ndarray, batch_seconds: float) -> TrainingSet:
    """Return a training set of utterances of these lengths that hold nothing."""
    frames = np.round(seconds / HOP_SECONDS).astype(np.int64)
    empty = np.lib.stride_tricks.as_strided(
        np.zeros((1, 1), np.float16), (int(frames.sum()), 1), (0, 0)
    )
    features = PackedFeatures(empty, np.concatenate([[0], np.cumsum(frames)]))
    return TrainingSet([features], [None] * len(frames), HOP_SECONDS, batch_seconds, 0)


def padding(plan: Iterable[Sequence[int]], num_frames: np.ndarray) -> float:
    """Return the share of a plan's frames that is padding, in per cent."""
    batches = [num_frames[list(batch)] for batch in plan]
    held = sum(len(frames) * int(frames.max()) for frames in batches)
    return float(100 * (1 - sum(int(frames.sum()) for frames in batches) / held))


def random_plan(like: list[list[int]], seed: int) -> list[list[int]]:
    """Return as many batches of as many utterances, lengths ignored."""
    order = np.random.default_rng(seed).permutation(sum(map(len, like)))
    return [part.tolist() for part in np.array_split(order, len(like))]


def mates_kept(one: list[list[int]], other: list[list[int]]) -> float:
    """Return the share of pairs that meet in a batch of one plan and again in the other."""
    place = {item: index for index, batch in enumerate(other) for item in batch}
    pairs = met = 0
    for batch in one:
        sizes = np.bincount([place[item] for item in batch])
        pairs += len(batch) * (len(batch) - 1)
        met += int((sizes * (sizes - 1)).sum())
    return met / max(1, pairs)


def padding_row(
    name: str, seconds: np.ndarray, batch_seconds: float, most: float, num_epochs: int
) -> dict[str, Any]:
    """Return the row about one distribution of lengths."""
    data = planned(seconds, batch_seconds)
    frames = data.copies[0].num_frames
    plans = [data.plan(epoch) for epoch in range(num_epochs)]
    value = statistics.mean(padding(plan, frames) for plan in plans)
    rough = padding(random_plan(plans[0], 0), frames)
    again = statistics.mean(mates_kept(a, b) for a, b in itertools.pairwise(plans))
    return row(
        f"padding of batches of {batch_seconds:g} s, {name}",
        value,
        "% of the frames",
        f"at most {most:g}",
        value <= most,
        f"random batches: {rough:.1f} %; mean of {num_epochs} epochs of {len(plans[0])} batches, "
        f"{len(frames):,} utterances of {seconds.mean():.2f} s on average; of two utterances in "
        f"one batch, {100 * again:.1f} % share one in the next epoch, too",
    )


def measure(source: Path, num_librispeech: int, num_epochs: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    rows = [padding_row("FSDD", fsdd_seconds(source), FSDD_BATCH_SECONDS, MAX_FSDD, num_epochs)]
    lengths = librispeech_seconds(num_librispeech)
    for batch_seconds in LIBRISPEECH_BATCHES:
        rows.append(
            padding_row(
                "lengths like LibriSpeech's", lengths, batch_seconds, MAX_LIBRISPEECH, num_epochs
            )
        )
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of FSDD; holds recordings/")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    rows = measure(recordings(arguments.source), NUM_LIBRISPEECH, arguments.epochs)
    report("padding", rows)


if __name__ == "__main__":
    main()
