"""What a corpus is like, in numbers that tell when it moved away from another.

Of every utterance, as prepared: its duration, its level (RMS in dB below full scale), the share of
its samples that are clipped, and its speaking rate; of every split: the characters. A profile keeps
histograms in fine, fixed bins, so it is small and no audio can be got back from it.

Two profiles are compared by the population stability index over the deciles of the reference,

    PSI = Σ (p − q)·ln(p / q)

with p and q the shares of utterances in a decile, now and in the reference, half an utterance added
to each, and groups beyond the reference's ends. By custom (Siddiqi, Credit Risk Scorecards, 2006)
0.1 is a small move and 0.25 one that matters. Few utterances make large values by chance, so a move
must also exceed what chance explains: with equal distributions PSI / (1/n + 1/m) is distributed as
χ² with one degree of freedom less than there are groups (Yurdakul and Naranjo, 2020).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from distillery.errors import ManifestError
from distillery.files import Json, read_json, write_json

PROFILE_FILE = "profile.json"
VERSION = 1
MEASURES = ("duration_seconds", "level_dbfs", "clipped_fraction", "characters_per_second")
DURATION_STEP = 1.05  # ratio of a bin's ends
LEVEL_STEP_DB = 0.5
RATE_STEP = 0.5  # characters per second
SMALLEST_CLIPPING = 1e-5
NUM_GROUPS = 10
PSI_MOVED = 0.25
CHANCE = 0.001
"""How often a move that chance alone makes may count as one."""
DIGITS = 6

Histogram = Sequence[tuple[int, int]]
"""Bins that hold an utterance, ascending, each with how many it holds."""


@dataclass(frozen=True)
class Distribution:
    """One measure over the utterances of one split; None where there were none."""

    count: int
    """Utterances measured."""
    histogram: Histogram
    mean: float | None = None
    sd: float | None = None
    """Standard deviation."""
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class SplitProfile:
    """What one split is like."""

    measures: Mapping[str, Distribution]
    """By the names in MEASURES."""
    characters: Mapping[str, int]
    """Of its transcripts: how often each."""


@dataclass(frozen=True)
class Repeated:
    """Sentences of a split that models are trained on, too."""

    num_utterances: int
    """Transcribed ones of the split."""
    num_in_train: int
    """Those whose whole text is that of a training utterance."""

    @property
    def fraction(self) -> float:
        """Share of the utterances."""
        return self.num_in_train / max(1, self.num_utterances)


@dataclass(frozen=True)
class Leaks:
    """What would flatter models, and what became of it."""

    repeated: Mapping[str, Repeated]
    """Of `valid` and `test`."""
    copies_dropped: Mapping[str, int]
    """By the split whose audio it was: utterances of other splits that were dropped."""
    respelt_speakers: int
    """Speakers whose spellings differed by blanks or case alone, and are one now."""


@dataclass(frozen=True)
class Profile:
    """What profile.json holds."""

    splits: Mapping[str, SplitProfile]
    unknown_characters: Mapping[str, int]
    """Characters that are no tokens: how many utterances were dropped for each."""
    num_utterances_with_unknown_characters: int
    """Dropped for any of them."""
    leaks: Leaks | None = None
    """None in profiles of old."""
    version: int = VERSION
    """Of the measures and their bins."""


@dataclass
class _Counting:
    """One measure of one split while it is counted."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, measure: str, value: float) -> None:
        self.count += 1
        self.total += value
        self.squares += value * value
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.bins[bin_of(measure, value)] += 1

    def summary(self) -> Distribution:
        if not self.count:
            return Distribution(0, [])
        mean = self.total / self.count
        variance = max(0.0, self.squares / self.count - mean * mean)
        return Distribution(
            self.count,
            [(index, self.bins[index]) for index in sorted(self.bins)],
            mean=round(mean, DIGITS),
            sd=round(math.sqrt(variance), DIGITS),
            min=round(self.low, DIGITS),
            max=round(self.high, DIGITS),
        )


def bin_of(measure: str, value: float) -> int:
    """Return the histogram bin of a value; bins never change, or profiles could not be compared."""
    if measure == "duration_seconds":
        return math.floor(math.log(max(value, 1e-3)) / math.log(DURATION_STEP))
    if measure == "level_dbfs":
        return math.floor(value / LEVEL_STEP_DB)
    if measure == "clipped_fraction":  # none, then by powers of ten
        return 0 if value <= 0 else max(1, 1 + math.floor(math.log10(value / SMALLEST_CLIPPING)))
    return math.floor(value / RATE_STEP)


class ProfileBuilder:
    """Counts utterances, one after another, in any number of splits."""

    def __init__(self) -> None:
        self._splits: dict[str, dict[str, _Counting]] = {}
        self._characters: dict[str, Counter[str]] = {}
        self._unknown: Counter[str] = Counter()
        self._num_refused = 0

    def add(
        self,
        split: str,
        duration_seconds: float,
        level: float,
        clipped: float,
        text: str | None,
    ) -> None:
        """Count an utterance that is kept.

        Args:
            split: where it belongs.
            duration_seconds: of its audio.
            level: `level_dbfs` of it.
            clipped: `clipped_fraction` of it.
            text: its normalised transcript; None where there is none.
        """
        measures = self._splits.setdefault(split, {name: _Counting() for name in MEASURES})
        values = {"duration_seconds": duration_seconds, "level_dbfs": level}
        values["clipped_fraction"] = clipped
        characters = self._characters.setdefault(split, Counter())
        if text is not None:
            values["characters_per_second"] = len(text) / duration_seconds
            characters.update(text)
        for name, value in values.items():
            measures[name].add(name, value)

    def refuse(self, characters: set[str]) -> None:
        """Count an utterance that was dropped for characters that are no tokens."""
        self._num_refused += 1
        self._unknown.update(characters)

    def profile(self, leaks: Leaks | None = None) -> Profile:
        """Return the profile of what was counted, with what may flatter models, if known."""
        return Profile(
            splits={
                split: SplitProfile(
                    measures={name: measures[name].summary() for name in MEASURES},
                    characters=dict(sorted(self._characters[split].items())),
                )
                for split, measures in sorted(self._splits.items())
            },
            unknown_characters=dict(sorted(self._unknown.items())),
            num_utterances_with_unknown_characters=self._num_refused,
            leaks=leaks,
        )


def write_profile(folder: Path, profile: Profile) -> None:
    """Write profile.json into a folder of prepared data; what was not measured is left out."""
    content = asdict(profile, dict_factory=_without_none)
    write_json(folder / PROFILE_FILE, content)


def _without_none(items: Iterable[tuple[str, object]]) -> Json:
    return {name: value for name, value in items if value is not None}


@dataclass(frozen=True)
class _Version:
    """All that is known of a profile before its version is."""

    version: int | None = None


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ManifestError: the file is missing, damaged, or of another version of this module.
    """
    try:
        version = read_json(path, _Version).version
        if version == VERSION:
            return read_json(path, Profile)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}); run make prepare again") from None
    raise ManifestError(f"{path}: version {version}, expected {VERSION}; run make prepare again")


# --- comparison --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """How far one measure of one split is from the reference's."""

    split: str
    measure: str
    psi: float
    chance: float
    """What chance alone exceeds once in a thousand."""
    mean: float
    reference_mean: float

    @property
    def moved(self) -> bool:
        """Whether it is far enough to matter, and further than chance explains."""
        return self.psi > max(PSI_MOVED, self.chance)

    def __str__(self) -> str:
        return (
            f"{self.split}: {self.measure} {self.mean:.4g} on average, it was "
            f"{self.reference_mean:.4g} (PSI {self.psi:.2f}, moved from "
            f"{max(PSI_MOVED, self.chance):.2f} on)"
        )


@dataclass(frozen=True)
class Comparison:
    """How data differ from the reference's."""

    shifts: Sequence[Shift]
    new_characters: Mapping[str, int]
    """Characters of transcripts that no transcript of the reference holds: how often."""
    newly_unknown: Mapping[str, int]
    """Characters for which utterances were dropped, as none were in the reference: how many."""

    @property
    def warnings(self) -> list[str]:
        """What moved, a sentence each; empty where nothing did."""
        lines = [str(shift) for shift in self.shifts if shift.moved]
        if self.new_characters:
            lines.append(f"characters that it did not hold: {_listed(self.new_characters)}")
        if self.newly_unknown:
            lines.append(
                f"utterances dropped for unknown characters: {_listed(self.newly_unknown)}"
            )
        return lines


def compare(profile: Profile, reference: Profile) -> Comparison:
    """Return how data differ from a reference's, split by split; splits of one alone are left out.

    Args:
        profile: of the data in question.
        reference: such as that of the data which the champion was trained on.
    """
    shifts = []
    for split in sorted(set(profile.splits) & set(reference.splits)):
        now, then = profile.splits[split].measures, reference.splits[split].measures
        for measure in MEASURES:
            if now[measure].count and then[measure].count:
                shifts.append(_shift(split, measure, now[measure], then[measure]))
    seen, known = (_characters(item) for item in (profile, reference))
    former = reference.unknown_characters
    return Comparison(
        shifts,
        {name: count for name, count in sorted(seen.items()) if known and name not in known},
        {k: n for k, n in sorted(profile.unknown_characters.items()) if k not in former},
    )


def _characters(profile: Profile) -> Counter[str]:
    return sum((Counter(split.characters) for split in profile.splits.values()), Counter())


def _shift(split: str, measure: str, now: Distribution, then: Distribution) -> Shift:
    upper = group_ends(then.histogram)
    psi, num_groups = stability_index(grouped(now.histogram, upper), grouped(then.histogram, upper))
    chance = chi_square(num_groups - 1) * (1 / now.count + 1 / then.count)
    assert now.mean is not None
    assert then.mean is not None
    return Shift(split, measure, psi, chance, now.mean, then.mean)


def group_ends(histogram: Histogram) -> list[int]:
    """Return the last bin of each group but the one beyond: below the lowest, then the deciles."""
    total = sum(count for _, count in histogram)
    ends = [histogram[0][0] - 1]
    reached = 0
    for index, count in histogram:
        before, reached = reached, reached + count
        if reached == total or reached * NUM_GROUPS // total > before * NUM_GROUPS // total:
            ends.append(index)
    return ends


def grouped(histogram: Histogram, ends: Sequence[int]) -> list[int]:
    """Return how many utterances lie in each group; the last one is beyond all ends."""
    counts = [0] * (len(ends) + 1)
    places = np.searchsorted(ends, [index for index, _ in histogram])
    for place, (_, count) in zip(places, histogram, strict=True):
        counts[int(place)] += count
    return counts


def stability_index(now: Sequence[int], then: Sequence[int]) -> tuple[float, int]:
    """Return the PSI of two counts by group, and the number of groups that are not empty in both.

    Half an utterance is added to each group, so that an empty one has a logarithm.
    """
    kept = [(a, b) for a, b in zip(now, then, strict=True) if a or b]
    shares = np.array(kept, dtype=np.float64) + 0.5  # (groups, 2)
    shares /= shares.sum(axis=0)
    p, q = shares.T
    return float(((p - q) * np.log(p / q)).sum()), len(kept)


def chi_square(degrees: int) -> float:
    """Return the value that χ² exceeds once in a thousand times; 0 without a degree of freedom."""
    from scipy.special import chdtri  # loads in a quarter of a second, and few compare profiles

    return float(chdtri(degrees, CHANCE)) if degrees else 0.0


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{character!r} × {count}" for character, count in counts.items())
