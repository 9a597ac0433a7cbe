"""The gain at equal computing: errors against CPU seconds of training, and where curves cross.

Each point is a training of its own, whose step size falls as a cosine over all of its epochs; a
point half-way through a longer training would be worse than what that time is worth. Between points
errors are interpolated over the logarithm of the CPU seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.tables import Row, percent, rates

ROLES = ("student", "control")
COLOURS = {"student": "#0072b2", "control": "#d55e00"}


@dataclass(frozen=True)
class Budget:
    """A number of epochs, trained from several seeds."""

    epochs: int
    cpu_seconds: float
    """Mean of the seeds."""
    errors: np.ndarray
    """Of each utterance under each seed `(seeds, utterances)`."""

    @classmethod
    def of(cls, epochs: int, runs: Sequence[Mapping[str, Any]]) -> Budget:
        """Return the budget of runs of so many epochs, one a seed."""
        seconds = float(np.mean([run["cpu_seconds"] for run in runs]))
        return cls(epochs, seconds, np.array([run["word_errors"] for run in runs]))


class Curve:
    """Errors against CPU seconds."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        """Put budgets in the order of what they cost."""
        self.budgets = sorted(budgets, key=lambda budget: budget.cpu_seconds)

    @property
    def seconds(self) -> list[float]:
        """What each point cost."""
        return [budget.cpu_seconds for budget in self.budgets]

    def at(self, seconds: float) -> np.ndarray:
        """Return the errors `(seeds, utterances)` that so much computing buys.

        Args:
            seconds: not below the cheapest point, nor above the dearest.
        """
        for left, right in pairwise(self.budgets):
            if left.cpu_seconds <= seconds <= right.cpu_seconds:
                width = math.log(right.cpu_seconds / left.cpu_seconds)
                share = math.log(seconds / left.cpu_seconds) / width if width else 0.0
                mixed: np.ndarray = (1 - share) * left.errors + share * right.errors
                return mixed
        return self.budgets[-1].errors


def equal_computing(
    runs: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]], words: np.ndarray
) -> Row:
    """Return both curves, the gain at equal CPU seconds and where the curves cross.

    Args:
        runs: by role and number of epochs, one run a seed.
        words: reference length of each test utterance `(utterances,)`.

    Returns:
        `student` and `control`, their points; and with both `gains` at each point's cost that both
        curves reach, and `crossings`, in CPU seconds.
    """
    curves = {
        role: Curve([Budget.of(epochs, found) for epochs, found in by_epochs.items()])
        for role, by_epochs in runs.items()
    }
    row: Row = {
        role: [_point(budget, runs[role][budget.epochs], words) for budget in curve.budgets]
        for role, curve in curves.items()
    }
    if set(ROLES) <= set(curves):
        gains = list(_gains(curves["student"], curves["control"], words))
        row |= {"gains": gains, "crossings": crossings(gains)}
    return row


def _point(budget: Budget, runs: Sequence[Mapping[str, Any]], words: np.ndarray) -> Row:
    return {
        "epochs": budget.epochs,
        "cpu_seconds": budget.cpu_seconds,
        "cpu_seconds_by_seed": [run["cpu_seconds"] for run in runs],
        "valid_wer": float(np.mean([run["valid_wer"] for run in runs])),
        **rates("wer", budget.errors, words),
    }


def _gains(student: Curve, control: Curve, words: np.ndarray) -> Iterator[Row]:
    """Yield control minus student wherever a point of either lies within the other's curve."""
    low = max(student.seconds[0], control.seconds[0])
    high = min(student.seconds[-1], control.seconds[-1])
    for seconds in sorted({*student.seconds, *control.seconds}):
        if low <= seconds <= high:
            difference = control.at(seconds) - student.at(seconds)
            yield {"cpu_seconds": seconds, **rates("gain_wer", difference, words)}


def crossings(gains: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the CPU seconds at which the mean gain changes its sign, interpolated; none: nowhere.

    Args:
        gains: in the order of their CPU seconds; a gain of 0 has the sign of the one before.
    """
    found = []
    known = [gain for gain in gains if gain["gain_wer"] != 0]
    for left, right in pairwise(known):
        if (left["gain_wer"] > 0) != (right["gain_wer"] > 0):
            share = left["gain_wer"] / (left["gain_wer"] - right["gain_wer"])
            width = math.log(right["cpu_seconds"] / left["cpu_seconds"])
            found.append(left["cpu_seconds"] * math.exp(share * width))
    return found


def describe(name: str, row: Mapping[str, Any]) -> list[str]:
    """Return lines for a person: each budget of both, the gains, and where the curves cross."""
    lines = [f"{name}: errors against CPU seconds of training"]
    for role in (role for role in ROLES if role in row):
        for point in row[role]:
            interval = f"{percent(point['wer_low'])} to {percent(point['wer_high'])}"
            lines.append(
                f"  {role} {point['epochs']} epochs, {point['cpu_seconds']:.0f} CPU s: "
                f"{percent(point['wer'])} % ({interval}), validation {percent(point['valid_wer'])}"
            )
    for gain in row.get("gains", []):
        interval = f"{percent(gain['gain_wer_low'])} to {percent(gain['gain_wer_high'])}"
        lines.append(
            f"  gain at {gain['cpu_seconds']:.0f} CPU s: {percent(gain['gain_wer'])} ({interval})"
        )
    if row.get("gains"):
        lines.append(f"  {where_they_cross(row)}")
    return lines


def where_they_cross(row: Mapping[str, Any]) -> str:
    """Return in words where the curves cross, and which is lower where they do not."""
    gains = row["gains"]
    reach = f"between {gains[0]['cpu_seconds']:.0f} and {gains[-1]['cpu_seconds']:.0f} CPU s"
    if row["crossings"]:
        places = ", ".join(f"{seconds:.0f}" for seconds in row["crossings"])
        return f"the curves cross at {places} CPU s"
    mean = float(np.mean([gain["gain_wer"] for gain in gains]))
    if mean == 0:
        return f"the curves lie on each other {reach}"
    return f"the curves cross nowhere {reach}: the {'student' if mean > 0 else 'control'} is lower"


def plot_budgets(title: str, row: Mapping[str, Any], path: Path) -> None:
    """Draw errors against CPU seconds of student and control, with intervals and crossings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for role in (role for role in ROLES if role in row):
        points = row[role]
        seconds = [point["cpu_seconds"] for point in points]
        wers = [100 * point["wer"] for point in points]
        below = [100 * (point["wer"] - point["wer_low"]) for point in points]
        above = [100 * (point["wer_high"] - point["wer"]) for point in points]
        axes.errorbar(
            seconds,
            wers,
            yerr=[below, above],
            fmt="o-",
            capsize=3,
            color=COLOURS[role],
            label=role,
        )
        for point, second, wer in zip(points, seconds, wers, strict=True):
            axes.annotate(
                f"{point['epochs']} ep.", (second, wer), (4, 5), textcoords="offset points"
            )
    for seconds_ in row.get("crossings", []):
        axes.axvline(seconds_, color="#4d4d4d", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(x=0.12)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_xlabel("CPU seconds of training, the teacher's pass not among them")
    axes.set_ylabel("errors, % (95 % interval, mean of the seeds)")
    axes.set_title(title)
    figure.savefig(path, dpi=110)
