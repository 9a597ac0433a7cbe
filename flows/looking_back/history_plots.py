"""The history of retraining as a picture.

Apart from `plots`, on which `evaluate` depends: a change here makes no result out of date.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distillery.data.units import Unit
from flows.looking_back.history import Retraining

DOTS_PER_INCH = 120
STUDENT_COLOUR, TEACHER_COLOUR, HOURS_COLOUR = "#0072b2", "#4d4d4d", "#009e73"
MAX_RUNS = 60
"""Older runs are left out."""


def plot_history(records: Sequence[Retraining], path: Path) -> None:
    """Draw WER, champions and hours of data over the runs that ended with a student.

    Runs stand in the order in which they ended, not by the clock.

    Args:
        records: the history, oldest first; runs without a WER are left out.
        path: PNG file to write.
    """
    rows = [row for row in records if row.wer is not None][-MAX_RUNS:]
    figure = Figure(figsize=(10, 6), layout="constrained")
    wer_axes, hours_axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    wer_axes.set_title("Retraining: every run that ended with a student")
    _draw_wers(wer_axes, rows)
    _draw_champions(wer_axes, rows)
    units = [unit for unit in Unit if unit in {row.unit for row in rows}] or [Unit.WORD]
    rate = " or ".join(unit.rate_in_words for unit in units)
    wer_axes.set_ylabel(f"{rate} on the run's test split (%)")
    wer_axes.legend()
    _draw_hours(hours_axes, rows)
    hours_axes.set_ylabel("prepared audio (hours)")
    _name_the_days(hours_axes, rows)
    for axes in (wer_axes, hours_axes):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})


def _draw_wers(axes: Axes, rows: Sequence[Retraining]) -> None:
    wers = [_percent(row.wer) for row in rows]
    # Rounding may put an end of an interval on the other side of its value.
    below = [
        max(0.0, wer - _percent(row.wer_low)) if row.wer_low is not None else 0.0
        for wer, row in zip(wers, rows, strict=True)
    ]
    above = [max(0.0, _percent(row.wer_high) - wer) for wer, row in zip(wers, rows, strict=True)]
    axes.errorbar(
        range(len(rows)),
        wers,
        [below, above],
        color=STUDENT_COLOUR,
        capsize=3,
        label="student",
        marker=".",
    )
    heard = [place for place, row in enumerate(rows) if row.teacher_wer is not None]
    axes.plot(
        heard,
        [_percent(rows[place].teacher_wer) for place in heard],
        color=TEACHER_COLOUR,
        linestyle="--",
        marker=".",
        label="teacher",
    )


def _draw_champions(axes: Axes, rows: Sequence[Retraining]) -> None:
    promoted = [
        place
        for place, row in enumerate(rows)
        if row.alias == "champion" and row.version != row.former_champion  # or it just stayed
    ]
    axes.scatter(
        promoted,
        [_percent(rows[place].wer) for place in promoted],
        marker="*",
        s=180,
        color=STUDENT_COLOUR,
        edgecolor="black",
        zorder=3,
        label="became champion",
    )
    for place in promoted:
        axes.annotate(
            f"v{rows[place].version}",
            (place, _percent(rows[place].wer)),
            xytext=(9, 4),
            textcoords="offset points",
        )


def _draw_hours(axes: Axes, rows: Sequence[Retraining]) -> None:
    known = [(place, row.hours) for place, row in enumerate(rows) if row.hours is not None]
    axes.step(
        [place for place, _ in known],
        [hours for _, hours in known],
        where="mid",
        color=HOURS_COLOUR,
    )


def _name_the_days(axes: Axes, rows: Sequence[Retraining]) -> None:
    axes.set_xlabel("run, with its day (UTC)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.xaxis.set_major_formatter(
        lambda place, _: rows[int(place)].started[:10] if 0 <= place < len(rows) else ""
    )
    axes.tick_params(axis="x", rotation=30)


def _percent(fraction: float | None) -> float:
    return 100 * (fraction or 0.0)
