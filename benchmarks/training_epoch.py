"""What an epoch costs: from the cache, from memory, from other caches, with the teacher beside it.

    python -m benchmarks.training_epoch [--source FSDD] [--clips 900] [--strings 160] [--rounds 5]

Every epoch is the trainer's own, on one thread, from the same weights and through the same
objective (CTC, KL and CTC on the teacher's text); they differ in where batches come from:

- ours: packed features, the teacher cache as `make cache` leaves it;
- memory: the same batches, gathered once;
- HDF5, .pt: the teacher's outputs from one data set or file an utterance, float32; SpeechBrain's
  own reader of such a cache, too, where it can be imported;
- live: the teacher runs on every batch, in eval mode;
- naive: random batches of as many utterances, decoded and turned into features one by one, with the
  live teacher. The features that the teacher hears come from memory, in the naive epoch's favour.

The teacher has random weights. Times are CPU time, medians of paired rounds; a ratio is the median
of the rounds' ratios. Rows go to benchmarks/results/training_epoch.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import soundfile
import torch
from torch import Tensor

from benchmarks.common import paired_rounds, report, row
from benchmarks.digits import FEATURES, Digits, Epoch, OtherFrames, recordings
from benchmarks.student_step import Conv1dStudent
from distillery.data.features import LogMel, pad
from distillery.models.share import Share
from distillery.training.batches import START, Batch, Moment, TrainingSet

MIN_LIVE, MAX_PASS = 6.5, 1.1
MAX_OF_MEMORY = 1.03
MIN_OTHERS = 1.3
MIN_NAIVE = {"FSDD": 16.0, "strings of digits": 20.0}

Read = Callable[[Sequence[int]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class HeldBatches(TrainingSet):
    """Batches that stay in memory once they were gathered."""

    held: dict[tuple[int, ...], Batch] = field(default_factory=dict)

    def batch(
        self, items: Sequence[int], moment: Moment = START, share: Share | None = None
    ) -> Batch:
        """Return one batch; the first time, it is gathered."""
        if tuple(items) not in self.held:
            self.held[tuple(items)] = super().batch(items, moment, share)
        return self.held[tuple(items)]


class RandomBatches(TrainingSet):
    """As many batches, of as many utterances each, whatever their lengths."""

    def plan(self, epoch: int, num_batches: int | None = None) -> list[list[int]]:
        """Return one epoch's batches in a seeded order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        parts = np.array_split(order, len(super().plan(epoch, num_batches)))
        return [part.tolist() for part in parts]


@dataclass(frozen=True)
class FromFiles:
    """Features computed when they are asked for, from the recording."""

    num_frames: np.ndarray  # (utterances,)
    paths: Sequence[Path]
    extractor: LogMel

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one utterance's features `(feature_frames, mels)`."""
        samples, _ = soundfile.read(self.paths[row], dtype="float32")
        features: np.ndarray = self.extractor(torch.from_numpy(samples)).numpy()
        return features


def from_files(digits: Digits) -> FromFiles:
    """Return the features of the training split, computed anew each time."""
    paths = [digits.source / path for path in digits.rows["source_path"]]
    extractor = LogMel(FEATURES, digits.data.sample_rate_hz)
    return FromFiles(digits.packed.num_frames, paths, extractor)


def cached_values(digits: Digits) -> list[np.ndarray]:
    """Return the cached log-probabilities `(frames, vocab)` of every utterance."""
    cached = digits.cached()
    frames = [cached.frames([row]) for row in range(len(digits.rows))]
    return [item.log_probs[0, : item.lengths[0]].numpy() for item in frames]


def padded(load: Callable[[int], Any]) -> Read:
    """Return a reader that loads utterances one by one."""
    return lambda rows: pad([torch.as_tensor(load(row)) for row in rows])


@contextmanager
def other_caches(digits: Digits, folder: Path) -> Iterator[dict[str, Read]]:
    """Write the cache's content the way that others keep it; yield their readers by name."""
    values = cached_values(digits)
    (folder / "pt").mkdir(parents=True)
    with h5py.File(folder / "cache.hdf5", "w") as file:
        for index, item in enumerate(values):
            file.create_dataset(str(index), data=item)
            torch.save(torch.from_numpy(item), folder / "pt" / f"{index}.pt")
    with h5py.File(folder / "cache.hdf5", "r") as file:
        yield {
            "one HDF5 data set an utterance": padded(lambda row: file[str(row)][:]),
            "one .pt file an utterance": padded(lambda row: torch.load(folder / f"pt/{row}.pt")),
            **packaged(folder),
        }


def packaged(folder: Path) -> dict[str, Read]:
    """Return the reader of SpeechBrain, where that is installed."""
    found: dict[str, Read] = {}
    try:
        from speechbrain.integrations.hdf5.cached_item import CachedHDF5DynamicItem
    except ImportError:
        pass
    else:
        item = CachedHDF5DynamicItem(folder, "r", takes=["id"], func=None, provides=["teacher"])
        found["SpeechBrain's CachedHDF5DynamicItem"] = padded(lambda row: item(str(row)))
    return found


def data_path_rows(digits: Digits, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Return the rows about where an epoch's targets come from; the cache must be filled."""
    cached = digits.cached()
    with other_caches(digits, folder) as readers:
        ours = Epoch(digits, digits.training_set(cached))
        memory = Epoch(digits, digits.training_set(cached, kind=HeldBatches))
        others = [
            Epoch(digits, digits.training_set(OtherFrames(cached, read)))
            for read in readers.values()
        ]
        times = paired_rounds([ours, memory, *others], rounds)
    seconds = f"ours {medians(times)[0]:.2f} s of CPU time; {digits.description}"
    value = ratio(times, 0, 1)
    same = ours.losses == memory.losses
    rows = [
        row(
            f"epoch from the cache against batches held in memory, {digits.kind}",
            value,
            "of its CPU time",
            f"at most {MAX_OF_MEMORY:g}, losses bit-equal",
            value <= MAX_OF_MEMORY and same,
            f"{len(ours.losses)} losses {equality(same)}; {seconds}",
        )
    ]
    for place, (name, other) in enumerate(zip(readers, others, strict=True), 2):
        value = ratio(times, place, 0)
        rows.append(
            row(
                f"epoch from the cache, {digits.kind}, against {name}",
                value,
                "times cheaper",
                f"at least {MIN_OTHERS:g}",
                value >= MIN_OTHERS,
                f"{name}: {medians(times)[place]:.2f} s, losses "
                f"{equality(ours.losses == other.losses)}; {seconds}",
            )
        )
    return rows


def equality(same: bool) -> str:
    """Return what to say about losses."""
    return "bit-equal" if same else "DIFFERENT"


def teacher_rows(digits: Digits, rounds: int) -> list[dict[str, Any]]:
    """Return the rows about epochs with the teacher beside them; the cache must be filled."""
    cached = digits.cached()
    live = OtherFrames(cached, digits.live)
    naive = digits.training_set(live, from_files(digits), RandomBatches)
    jobs: Mapping[str, Callable[[], object]] = {
        "ours": Epoch(digits, digits.training_set(cached)),
        "live": Epoch(digits, digits.training_set(live)),
        "pass": digits.cache_pass,
        "naive": Epoch(digits, naive),
        "conv1d": Epoch(digits, naive, Conv1dStudent),
    }
    times = paired_rounds(list(jobs.values()), rounds)
    seconds = dict(zip(jobs, medians(times), strict=True))
    per_epoch = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    against = f"CPU seconds: {per_epoch}; {digits.description}"
    places = {name: place for place, name in enumerate(jobs)}
    live_ratio = ratio(times, places["live"], places["ours"])
    pass_ratio = ratio(times, places["pass"], places["live"])
    rows = [
        row(
            f"epoch from the cache against a live teacher, {digits.kind}",
            live_ratio,
            "times cheaper",
            f"at least {MIN_LIVE:g}",
            live_ratio >= MIN_LIVE,
            against,
        ),
        row(
            f"teacher pass into the cache, {digits.kind}",
            pass_ratio,
            "epochs with a live teacher",
            f"at most {MAX_PASS:g}",
            pass_ratio <= MAX_PASS,
            against,
        ),
    ]
    goal = MIN_NAIVE[digits.kind]
    for name, student in (("naive", "the same student"), ("conv1d", "the student in Conv1d")):
        value = ratio(times, places[name], places["ours"])
        rows.append(
            row(
                f"epoch against a naive one, {digits.kind}, {student}",
                value,
                "times cheaper",
                f"at least {goal:g}",
                value >= goal,
                against,
            )
        )
    return rows


def ratio(times: list[tuple[float, ...]], one: int, other: int) -> float:
    """Return the median over rounds of one job's time by another's."""
    return statistics.median(found[one] / found[other] for found in times)


def medians(times: list[tuple[float, ...]]) -> list[float]:
    """Return the median time of each job."""
    return [statistics.median(column) for column in zip(*times, strict=True)]


def measure(
    source: Path,
    folder: Path,
    num_clips: int,
    num_strings: int,
    rounds: int,
    **sizes: Any,
) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    fsdd = Digits.fsdd(source, folder / "fsdd", num_clips, **sizes)
    strings = Digits.strings(source, folder / "strings", num_strings, **sizes)
    rows = []
    fsdd.cache_pass()
    strings.cache_pass()
    rows += data_path_rows(fsdd, folder / "others", rounds)
    for digits in (fsdd, strings):
        rows += teacher_rows(digits, rounds)
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of FSDD; holds recordings/")
    parser.add_argument("--clips", type=int, default=900, help="single digits")
    parser.add_argument("--strings", type=int, default=160, help="strings of digits")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    source = recordings(arguments.source)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(source, Path(folder), arguments.clips, arguments.strings, arguments.rounds)
    report("training_epoch", rows)


if __name__ == "__main__":
    main()
