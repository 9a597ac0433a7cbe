"""The pictures of both studies, as PNG files: WER against data, and gains against teachers.

Rates are fractions in the data and percentages in the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from distillery.evaluate.plots import (
    COLOURS,
    CURVE_COLOURS,
    CURVE_STYLES,
    DODGE,
    SEED_ALPHA,
    STUDENT_MARKERS,
    save,
    what_bars_show,
)
from distillery.evaluate.records import Estimate
from distillery.studies.curve_results import CurveResults, ShareResult
from distillery.studies.teacher_choice import TeacherChoice


def plot_data_curve(results: CurveResults, path: Path) -> None:
    """Draw test WER against hours of training audio, with the teacher as a line.

    Args:
        results: all figures of the curves.
        path: PNG file to write.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    points = results.points
    names = list(dict.fromkeys(point.name for point in points))
    curves = [
        (role, [point for point in points if point.name == name])
        for name in names
        for role in CURVE_STYLES
        if all(role in point.by_role for point in points)
    ]
    for number, (role, mine) in enumerate(curves):
        dodge = DODGE ** (number - (len(curves) - 1) / 2)
        _draw_curve(axes, role, mine, names.index(mine[0].name), dodge)
    teacher = results.teacher.wer
    axes.axhline(
        100 * teacher.value, color=COLOURS["teacher"], linewidth=1.5, label="teacher, all data"
    )
    axes.axhspan(
        100 * teacher.low, 100 * teacher.high, color=COLOURS["teacher"], alpha=0.12, linewidth=0
    )
    shares = {point.amount.hours: point.amount.fraction for point in points}
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(shares), [f"{h:.3g}\n{100 * f:g} %" for h, f in shares.items()])
    axes.margins(x=0.08)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours of training audio (log scale), and their share of all")
    shown = what_bars_show(results.confidence, len(results.seeds))
    axes.set_ylabel(f"{results.data.unit.rate_in_words} on the test split (%){shown}")
    axes.set_title(
        f"Test {results.data.unit.rate} against the amount of training data; lower left is better"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), handlelength=3.5)
    save(figure, path)


def _draw_curve(
    axes: Axes, role: str, points: Sequence[ShareResult], position: int, dodge: float
) -> None:
    """Draw one student's curve, or its control's; each seed is a pale mark if there are several."""
    colour = CURVE_COLOURS[position % len(CURVE_COLOURS)]
    marker = STUDENT_MARKERS[position % len(STUDENT_MARKERS)]
    hours = [dodge * point.amount.hours for point in points]
    figures = [point.by_role[role] for point in points]
    wers = [item.rates.wer for item in figures]
    below, above = zip(*map(_bar, wers), strict=True)
    axes.errorbar(
        hours,
        [100 * wer.value for wer in wers],
        yerr=[below, above],
        color=colour,
        linestyle=CURVE_STYLES[role],
        marker=marker,
        markerfacecolor=colour if role == "student" else "white",
        elinewidth=1,
        capsize=3,
        label=f"{role} {points[0].name}",
    )
    for hour, item in zip(hours, figures, strict=True):
        if len(item.by_seed) > 1:
            each = [100 * run.wer for run in item.by_seed]
            axes.scatter(
                [hour] * len(each), each, color=colour, marker=marker, s=18, alpha=SEED_ALPHA
            )


def plot_teachers(choice: TeacherChoice, path: Path) -> None:
    """Draw what each teacher's pilot gained against its WER, and how much teachers disagree.

    Args:
        choice: all figures of the comparison.
        path: PNG file to write.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    gains, matrix = figure.subplots(1, 2)
    tried = [
        (row.name, row.wer, row.pilot.gain_wer)
        for row in choice.candidates
        if row.wer is not None and row.pilot is not None
    ]
    for number, (name, wer, gain) in enumerate(tried):
        across, along = _bar(wer), _bar(gain)
        gains.errorbar(
            100 * wer.value,
            100 * gain.value,
            xerr=[[across[0]], [across[1]]],
            yerr=[[along[0]], [along[1]]],
            color=CURVE_COLOURS[number % len(CURVE_COLOURS)],
            marker=STUDENT_MARKERS[number % len(STUDENT_MARKERS)],
            linestyle="none",
            capsize=4,
            label=name,
        )
    gains.axhline(0, color=COLOURS["teacher"], linewidth=1)
    gains.set_xlabel(
        f"teacher's {choice.data.unit.rate} (%), {100 * choice.confidence:g} % interval"
    )
    gains.set_ylabel(f"points of {choice.data.unit.rate} that its pilot student gained")
    gains.set_title(f"What student {choice.pilot.student} gained; higher is better")
    gains.grid(alpha=0.3)
    if tried:
        gains.legend()
    _draw_disagreement(matrix, choice.disagreement)
    save(figure, path)


def _bar(estimate: Estimate) -> tuple[float, float]:
    """Return how far an interval reaches below and above its value, in percent."""
    below, above = estimate.value - estimate.low, estimate.high - estimate.value
    return max(0.0, 100 * below), max(0.0, 100 * above)


def _draw_disagreement(axes: Axes, disagreement: Mapping[str, Mapping[str, float]]) -> None:
    names = list(disagreement)
    values = [[100 * disagreement[a][b] for b in names] for a in names]
    if names:
        axes.imshow(values, cmap="Blues", vmin=0)
    highest = max((value for row in values for value in row), default=0.0)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            colour = "white" if value > highest / 2 else "black"
            axes.text(x, y, f"{value:.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("teacher")
    axes.set_ylabel("teacher")
    axes.set_title("How much teachers' texts disagree (%)")
