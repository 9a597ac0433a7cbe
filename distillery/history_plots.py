"""The history of retraining as a picture.

Apart from `plots`, on which `evaluate` depends: a change here makes no result out of date.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distillery.history import Retraining

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
    places = list(range(len(rows)))
    figure = Figure(figsize=(10, 6), layout="constrained")
    wer_axes, hours_axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    wers = [100 * (row.wer or 0.0) for row in rows]
    below = [
        wer - 100 * low if (low := row.wer_low) is not None else 0.0
        for wer, row in zip(wers, rows, strict=True)
    ]
    above = [
        100 * high - wer if (high := row.wer_high) is not None else 0.0
        for wer, row in zip(wers, rows, strict=True)
    ]
    wer_axes.errorbar(
        places, wers, [below, above], color=STUDENT_COLOUR, capsize=3, label="student", marker="."
    )
    heard = [place for place in places if rows[place].teacher_wer is not None]
    wer_axes.plot(
        heard,
        [100 * (rows[place].teacher_wer or 0.0) for place in heard],
        color=TEACHER_COLOUR,
        linestyle="--",
        marker=".",
        label="teacher",
    )
    crowned = [place for place in places if rows[place].alias == "champion"]
    wer_axes.scatter(
        crowned,
        [wers[place] for place in crowned],
        marker="*",
        s=180,
        color=STUDENT_COLOUR,
        edgecolor="black",
        zorder=3,
        label="became champion",
    )
    for place in crowned:
        wer_axes.annotate(
            f"v{rows[place].version}",
            (place, wers[place]),
            xytext=(9, 4),
            textcoords="offset points",
        )
    wer_axes.set_ylabel("word error rate on the run's test split (%)")
    wer_axes.set_ylim(bottom=0)
    wer_axes.set_title("Retraining: every run that ended with a student")
    wer_axes.legend()
    with_data = [place for place in places if rows[place].hours is not None]
    hours_axes.step(
        with_data,
        [rows[place].hours or 0.0 for place in with_data],
        where="mid",
        color=HOURS_COLOUR,
    )
    hours_axes.set_ylabel("prepared audio (hours)")
    hours_axes.set_ylim(bottom=0)
    hours_axes.set_xlabel("run, with its day (UTC)")
    hours_axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    hours_axes.xaxis.set_major_formatter(
        lambda place, _: rows[int(place)].started[:10] if int(place) in places else ""
    )
    for axes in (wer_axes, hours_axes):
        axes.grid(alpha=0.3)
    hours_axes.tick_params(axis="x", rotation=30)
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
