"""The curves as table, picture, text for the terminal, and points for MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from distillery.console import as_text, new_table
from distillery.data.audio import SECONDS_PER_HOUR
from distillery.evaluate.rates import Rates
from distillery.evaluate.tables import MISSING, title, with_interval
from distillery.files import write_bytes
from distillery.studies.curve_results import CurveResults, ShareResult
from distillery.studies.data_curve import percent
from distillery.studies.plots import plot_data_curve
from distillery.tracking.curve_files import Point

CSV_FILE, PLOT_FILE = "curve.csv", "curve.png"


def table_of(results: CurveResults) -> pd.DataFrame:
    """Return the figures as a table, one row for the teacher and per student, share and role."""
    teacher = {"student": "", "role": "teacher", **_rates(results.teacher)}
    rows: list[dict[str, object]] = [teacher]
    rows += [row for point in results.points for row in _rows(point)]
    columns = max((list(row) for row in rows), key=len)
    return pd.DataFrame(rows, columns=columns).astype({"utterances": "Int64"})


def _rows(point: ShareResult) -> Iterable[dict[str, object]]:
    amount, gain = point.amount, point.gain
    for role, figures in point.by_role.items():
        yield {
            "student": point.name,
            "role": role,
            "fraction": amount.fraction,
            "hours": round(amount.hours, 6),
            "transcribed_hours": round(amount.transcribed_hours, 6),
            "utterances": amount.num_utterances,
            "steps": _join(run.steps for run in figures.by_seed),
            "seeds": _join(run.seed for run in figures.by_seed),
            **_rates(figures.rates),
            "wer_by_seed": _join(round(run.wer, 6) for run in figures.by_seed),
            **(gain.entries(("gain_wer", "gap_closed")) if role == "student" else {}),
        }


def _rates(rates: Rates) -> dict[str, object]:
    return rates.entries(("wer", "cer"))


def _join(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def write_report(results: CurveResults, folder: Path) -> None:
    """Write the table and the picture of the curves.

    Args:
        results: all figures.
        folder: receives curve.csv and curve.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    csv = table_of(results).to_csv(index=False, float_format="%.6f")
    write_bytes(folder / CSV_FILE, csv.encode())
    plot_data_curve(results, folder / PLOT_FILE)


def render(results: CurveResults) -> str:
    """Return the curves as text for the terminal, 100 columns wide."""
    table = new_table(title(results.data, len(results.seeds)))
    interval, rate = f"[{100 * results.confidence:g} % interval]", results.data.unit.rate
    table.add_column("student", overflow="fold")
    for header in (
        "training audio",
        f"control, {rate} %\n{interval}",
        f"student, {rate} %\n{interval}",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column(f"gain, points\n{interval}", justify="right", no_wrap=True)
    between = "\n" if len(results.seeds) > 1 else " "
    for point in results.points:
        control, gain = point.control, point.gain.gain_wer
        table.add_row(
            point.name,
            f"{point.amount.hours:.3g} h ({percent(point.amount.fraction)} %)",
            with_interval(control.rates.wer, between) if control else MISSING,
            with_interval(point.student.rates.wer, between),
            with_interval(gain, between) if gain else MISSING,
        )
    teacher = with_interval(results.teacher.wer, " ")
    return as_text(table, "", f"teacher: {rate} {teacher} %; the same at every amount")


def metrics(results: CurveResults, timestamp: int) -> list[Point]:
    """Return the curves as MLflow draws them: WER and gain by seconds of training audio.

    Args:
        results: all figures.
        timestamp: milliseconds since 1970.
    """
    points: dict[tuple[str, int], float] = {}
    for point in results.points:
        hours, name, gain = point.amount.hours, point.name, point.gain
        step = round(hours * SECONDS_PER_HOUR)
        values: dict[str, float | None] = {
            "teacher/wer": results.teacher.wer.value,
            "data/hours": hours,
        }
        for role, figures in point.by_role.items():
            values |= figures.rates.wer.entries(f"{role}/{name}/wer")
        if gain.gain_wer is not None:
            values |= gain.gain_wer.entries(f"gain/{name}/wer")
        values[f"gain/{name}/gap_closed"] = gain.gap_closed
        points |= {(key, step): value for key, value in values.items() if value is not None}
    return [Point(key, float(value), step, timestamp) for (key, step), value in points.items()]
