"""The pictures of an evaluation, as PNG files.

Rates are fractions in the data and percentages in the pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FormatStrFormatter,
    LogLocator,
    NullFormatter,
)

from distillery.data.units import Unit
from distillery.distill.filtering import FilterReport
from distillery.evaluate.curves import CurvePoint
from distillery.evaluate.summary import ModelRow, Row

DOTS_PER_INCH = 120
MAX_SPEAKERS = 40
COLOURS = {"teacher": "#4d4d4d", "student": "#0072b2", "control": "#d55e00"}
TEACHER_MARKER = "s"
STUDENT_MARKERS = "o^Dv*Pp<>X"
LINE_STYLES = ("-", "--", ":", "-.")
CURVE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of students on curves over the amount of data, where a control has its student's colour."""
CURVE_STYLES = {"student": "-", "control": "--"}
DODGE = 1.02
"""Factor between the hours at which neighbouring curves are drawn, so that bars do not hide."""
SEED_ALPHA = 0.45
FILTER_COLOURS = {"kept": "#0072b2", "dropped": "#d55e00"}
ERROR_COLOURS = {
    "substitutions": "#0072b2",
    "deletions": "#e69f00",
    "insertions": "#009e73",
}


class Bar(NamedTuple):
    """How an interval is drawn."""

    width: float
    """Of the line, in points."""
    cap: float
    """Length of its caps, in points."""
    alpha: float
    """1 is opaque."""


CONTROL_BAR, STUDENT_BAR = Bar(5, 0, 0.45), Bar(1.5, 5, 1.0)
"""A control has exactly its student's size: a wide pale bar shows behind a thin one."""


def plot_learning_curves(
    curves: Mapping[str, Sequence[CurvePoint]],
    rows: Sequence[ModelRow],
    path: Path,
    unit: Unit = Unit.WORD,
) -> None:
    """Draw training loss and validation WER against the step.

    Args:
        curves: of each model and seed, by where it lies under models/.
        rows: the models, in the order of the legend; several seeds are so many pale lines.
        path: PNG file to write.
        unit: what errors are counted in.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    loss_axes, wer_axes = figure.subplots(1, 2)
    panels = ((loss_axes, "train/loss", 1.0), (wer_axes, "valid/wer", 100.0))
    for axes, key, scale in panels:
        for row, style in zip(rows, _line_styles(rows), strict=True):
            for number, run in enumerate(row.runs):
                points = [point for point in curves[run.model] if point.key == key]
                axes.plot(
                    [point.step for point in points],
                    [scale * point.value for point in points],
                    color=COLOURS[row.role],
                    linestyle=style,
                    marker="." if len(points) < 3 else "",
                    alpha=SEED_ALPHA if len(row.runs) > 1 else 1.0,
                    label=row.label if number == 0 else None,
                )
        axes.set_xlabel("training step")
        axes.grid(alpha=0.3)
    loss_axes.set_ylabel("training loss")
    loss_axes.set_title("Training loss; students and controls minimise different sums")
    wer_axes.set_ylabel(f"{unit.rate_in_words} on the validation split (%)")
    wer_axes.set_title(f"Validation {unit.rate}; the best epoch is kept")
    wer_axes.set_ylim(bottom=0)
    wer_axes.legend()
    save(figure, path)


def plot_wer_against_size(
    rows: Sequence[ModelRow], confidence: float, path: Path, unit: Unit = Unit.WORD
) -> None:
    """Draw test WER, with intervals, against the number of parameters."""
    figure, axes = _scatter(rows, lambda row: row.parameters, confidence, unit)
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlabel("parameters (log scale)")
    axes.set_title(f"Test {unit.rate} against model size; lower left is better")
    save(figure, path)


def plot_wer_against_speed(
    rows: Sequence[ModelRow], confidence: float, path: Path, unit: Unit = Unit.WORD
) -> None:
    """Draw test WER, with intervals, against the real-time factor."""
    figure, axes = _scatter(rows, lambda row: row.real_time_factor, confidence, unit)
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_xlabel(
        f"real-time factor: computing seconds per second of audio (log scale)\n{rows[0].device}"
    )
    axes.set_title(f"Test {unit.rate} against cost of recognition; lower left is better")
    save(figure, path)


def plot_error_counts(rows: Sequence[ModelRow], path: Path, unit: Unit = Unit.WORD) -> None:
    """Draw what the WER of each model consists of."""
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    labels, words = [row.label for row in rows], unit.plural
    starts = [0.0] * len(rows)
    for kind, colour in ERROR_COLOURS.items():
        shares = [100 * row.error_counts[kind] / row.words for row in rows]
        axes.barh(labels, shares, left=starts, color=colour, label=kind)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    for position, (row, end) in enumerate(zip(rows, starts, strict=True)):
        shown = " " + " + ".join(f"{row.error_counts[kind]:.0f}" for kind in ERROR_COLOURS)
        axes.text(end, position, shown, va="center", fontsize=9)
    axes.set_xlim(0, max([*starts, 1e-3]) * 1.25)  # room for the numbers
    axes.invert_yaxis()
    axes.set_xlabel(f"errors per 100 {words} ({rows[0].words} test {words}; counts at the bars)")
    axes.set_title("Substitutions, deletions and insertions on the test split")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, path)


def plot_wer_by_speaker(
    rows: Sequence[ModelRow], per_speaker: pd.DataFrame, path: Path, unit: Unit = Unit.WORD
) -> None:
    """Draw each test speaker's WER under every model, the hardest speakers on top.

    Args:
        rows: the models, in the order of the legend.
        per_speaker: columns `model`, `speaker`, `utterances` and `wer`.
        path: PNG file to write.
        unit: what errors are counted in.
    """
    table = per_speaker.pivot(index="speaker", columns="model", values="wer") * 100
    order = table.mean(axis=1).sort_values(ascending=False, kind="stable").index[:MAX_SPEAKERS]
    utterances = per_speaker.groupby("speaker")["utterances"].first()
    names = [f"{speaker} ({utterances[speaker]} utt.)" for speaker in order]
    table = table.loc[order]
    figure = Figure(figsize=(8, 1.8 + 0.28 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(names, table.min(axis=1), table.max(axis=1), color="#cccccc", zorder=1)
    for row, marker in zip(rows, _markers(rows), strict=True):
        axes.scatter(
            table[row.model],
            names,
            color=COLOURS[row.role],
            marker=marker,
            alpha=0.8,
            label=row.label,
            zorder=2,
        )
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit.rate_in_words} on the test split (%)")
    shown = f"the {len(names)} hardest of {per_speaker['speaker'].nunique()} speakers"
    only = f", {shown}" if len(utterances) > len(names) else ""
    axes.set_title(f"{unit.rate} by test speaker{only}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    save(figure, path)


def plot_filter(reports: Mapping[str, FilterReport | None], path: Path) -> None:
    """Draw why teacher texts were dropped, and how confident the teacher was of the others.

    Args:
        reports: of each student, None where nothing was filtered.
        path: PNG file to write.
    """
    groups: list[
        tuple[FilterReport, list[str]]
    ] = []  # students that share a teacher share a report
    for name, report in reports.items():
        same = [names for other, names in groups if other == report]
        if same:
            same[0].append(name)
        elif report is not None:
            groups.append((report, [name]))
    figure = Figure(figsize=(11, 3.6 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False)
    for (report, names), (reason_axes, confidence_axes) in zip(groups, panels, strict=True):
        reasons = {"kept": report.num_kept, **report.dropped}
        colours = [FILTER_COLOURS["kept" if name == "kept" else "dropped"] for name in reasons]
        bars = reason_axes.barh(list(reasons), list(reasons.values()), color=colours)
        reason_axes.bar_label(bars, padding=3)
        reason_axes.set_xlim(0, 1.15 * report.num_hypotheses)  # room for the numbers
        reason_axes.invert_yaxis()
        reason_axes.set_xlabel(f"teacher texts (100 % = {report.num_hypotheses})")
        reason_axes.set_title(f"Filter of {', '.join(names)}: kept, and dropped by reason")
        edges = report.confidence.edges
        bottom = [0] * (len(edges) - 1)
        both = {"kept": report.confidence.kept, "dropped": report.confidence.dropped}
        for kind, counts in both.items():
            confidence_axes.bar(
                edges[:-1],
                counts,
                width=edges[1] - edges[0],
                align="edge",
                bottom=bottom,
                color=FILTER_COLOURS[kind],
                edgecolor="white",
                label=kind,
            )
            bottom = [sum(pair) for pair in zip(bottom, counts, strict=True)]
        confidence_axes.set_xlim(0, 1)
        confidence_axes.set_xlabel("teacher's confidence in its text")
        confidence_axes.set_ylabel("teacher texts")
        hours = f"{report.hours_kept:.2f} of {report.hours:.2f} hours kept"
        confidence_axes.set_title(f"By confidence; {hours}")
        confidence_axes.legend()
    save(figure, path)


def _scatter(
    rows: Sequence[ModelRow], cost: Callable[[Row], float], confidence: float, unit: Unit
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for row, marker in zip(rows, _markers(rows), strict=True):
        wer = 100 * row.wer.value
        below, above = wer - 100 * row.wer.low, 100 * row.wer.high - wer
        bar = CONTROL_BAR if row.role == "control" else STUDENT_BAR
        axes.errorbar(
            cost(row),
            wer,
            yerr=[[max(0.0, below)], [max(0.0, above)]],
            color=COLOURS[row.role],
            marker=marker,
            linestyle="none",
            label=row.label,
            elinewidth=bar.width,
            capsize=bar.cap,
            alpha=bar.alpha,
        )
        if len(row.runs) > 1:
            axes.scatter(
                [cost(run) for run in row.runs],
                [100 * run.wer.value for run in row.runs],
                color=COLOURS[row.role],
                marker=marker,
                s=18,
                alpha=SEED_ALPHA,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)
    axes.set_ylim(bottom=0)
    shown = what_bars_show(confidence, max(len(row.runs) for row in rows))
    axes.set_ylabel(f"{unit.rate_in_words} on the test split (%){shown}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure, axes


def what_bars_show(confidence: float, num_seeds: int) -> str:
    if num_seeds == 1:
        return f", {100 * confidence:g} % interval"
    return f"\nmean with {100 * confidence:g} % interval; pale: each of {num_seeds} seeds"


def _markers(rows: Sequence[ModelRow]) -> list[str]:
    """Give a student and its control the same marker; colours tell them apart."""
    return [
        TEACHER_MARKER
        if row.role == "teacher"
        else STUDENT_MARKERS[_position(row, rows) % len(STUDENT_MARKERS)]
        for row in rows
    ]


def _line_styles(rows: Sequence[ModelRow]) -> list[str]:
    """Give a student and its control the same style; colours tell them apart."""
    return [
        "-" if row.role == "teacher" else LINE_STYLES[_position(row, rows) % len(LINE_STYLES)]
        for row in rows
    ]


def _position(row: ModelRow, rows: Sequence[ModelRow]) -> int:
    names = dict.fromkeys(other.name for other in rows if other.role != "teacher")
    return list(names).index(row.name)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
