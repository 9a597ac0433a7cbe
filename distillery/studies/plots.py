"""TODO: plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    NullLocator,
)

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

Row = Mapping[str, Any]


def plot_data_curve(summary: Row, path: Path) -> None:
    """Draw test WER against hours of training audio, with the teacher as a line.

    Args:
        summary: `teacher`, `points`, `confidence` and `seeds` as `data_curve.score` returns them.
        path: PNG file to write.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    points = summary["points"]
    names = list(dict.fromkeys(point["name"] for point in points))
    curves = [
        (role, [point for point in points if point["name"] == name])
        for name in names
        for role in CURVE_STYLES
        if all(role in point for point in points)
    ]
    for number, (role, mine) in enumerate(curves):
        dodge = DODGE ** (number - (len(curves) - 1) / 2)
        _draw_curve(axes, role, mine, names.index(mine[0]["name"]), dodge)
    low, wer, high = (100 * summary["teacher"][key] for key in ("wer_low", "wer", "wer_high"))
    axes.axhline(wer, color=COLOURS["teacher"], linewidth=1.5, label="teacher, all data")
    axes.axhspan(low, high, color=COLOURS["teacher"], alpha=0.12, linewidth=0)
    shares = {point["hours"]: point["fraction"] for point in points}
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(shares), [f"{h:.3g}\n{100 * f:g} %" for h, f in shares.items()])
    axes.margins(x=0.08)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours of training audio (log scale), and their share of all")
    shown = what_bars_show(summary["confidence"], len(summary["seeds"]))
    axes.set_ylabel(f"word error rate on the test split (%){shown}")
    axes.set_title("Test WER against the amount of training data; lower left is better")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), handlelength=3.5)
    save(figure, path)


def plot_teachers(summary: Row, path: Path) -> None:
    """Draw what each teacher's pilot gained against its WER, and how much teachers disagree.

    Args:
        summary: `candidates`, `disagreement`, `pilot` and `confidence` as
            `teacher_choice.summarise` returns them.
        path: PNG file to write.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    gains, matrix = figure.subplots(1, 2)
    tried = [row for row in summary["candidates"] if "pilot" in row]
    for number, row in enumerate(tried):
        gain = {end: 100 * row["pilot"][f"gain_wer{end}"] for end in ("", "_low", "_high")}
        wer = {end: 100 * row[f"wer{end}"] for end in ("", "_low", "_high")}
        gains.errorbar(
            wer[""],
            gain[""],
            xerr=[[max(0, wer[""] - wer["_low"])], [max(0, wer["_high"] - wer[""])]],
            yerr=[[max(0, gain[""] - gain["_low"])], [max(0, gain["_high"] - gain[""])]],
            color=CURVE_COLOURS[number % len(CURVE_COLOURS)],
            marker=STUDENT_MARKERS[number % len(STUDENT_MARKERS)],
            linestyle="none",
            capsize=4,
            label=row["name"],
        )
    gains.axhline(0, color=COLOURS["teacher"], linewidth=1)
    gains.set_xlabel(f"teacher's WER (%), {100 * summary['confidence']:g} % interval")
    gains.set_ylabel("points of WER that its pilot student gained")
    gains.set_title(f"What student {summary['pilot']['student']} gained; higher is better")
    gains.grid(alpha=0.3)
    if tried:
        gains.legend()
    _draw_disagreement(matrix, summary["disagreement"])
    save(figure, path)


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


def _draw_curve(axes: Axes, role: str, points: Sequence[Row], position: int, dodge: float) -> None:
    """Draw one student's curve, or its control's; each seed is a pale mark if there are several."""
    colour = CURVE_COLOURS[position % len(CURVE_COLOURS)]
    marker = STUDENT_MARKERS[position % len(STUDENT_MARKERS)]
    hours = [dodge * point["hours"] for point in points]
    rows = [point[role] for point in points]
    below = [max(0.0, 100 * (row["wer"] - row["wer_low"])) for row in rows]
    above = [max(0.0, 100 * (row["wer_high"] - row["wer"])) for row in rows]
    axes.errorbar(
        hours,
        [100 * row["wer"] for row in rows],
        yerr=[below, above],
        color=colour,
        linestyle=CURVE_STYLES[role],
        marker=marker,
        markerfacecolor=colour if role == "student" else "white",
        elinewidth=1,
        capsize=3,
        label=f"{role} {points[0]['name']}",
    )
    for hour, row in zip(hours, rows, strict=True):
        if len(runs := row.get("by_seed", [row])) > 1:
            wers = [100 * run["wer"] for run in runs]
            axes.scatter(
                [hour] * len(runs), wers, color=colour, marker=marker, s=18, alpha=SEED_ALPHA
            )
