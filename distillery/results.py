"""The evaluation's summary as a table: for terminals, for Markdown.

Imports no model code, so that showing results is quick.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

TABLE_COLUMNS = 100
MISSING = "-"


def label(row: Mapping[str, Any]) -> str:
    """Return how tables and pictures call a model."""
    return "teacher" if row["role"] == "teacher" else f"{row['role']} {row['name']}"


def results_table(summary: Mapping[str, Any]) -> Table:
    """Return the table of all models: the teacher, then each student behind its control.

    Args:
        summary: what summary.json holds.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title=_title(summary),
        title_justify="left",
    )
    headers = _headers(summary)
    table.add_column(headers[0], overflow="fold")
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    for cells in _cells(summary):
        table.add_row(*cells)
    return table


def render_table(summary: Mapping[str, Any]) -> str:
    """Return the table and each student's verdict as plain text, 100 columns wide."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=TABLE_COLUMNS, color_system=None, highlight=False)
    console.print(results_table(summary), "")
    for line in _verdicts(summary):
        console.print(line, markup=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines())


def markdown_table(summary: Mapping[str, Any]) -> str:
    """Return the table and each student's verdict as Markdown."""
    headers = [header.replace("\n", " ") for header in _headers(summary)]
    rules = [":--", *["--:"] * (len(headers) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (headers, rules, *_cells(summary))]
    verdicts = [f"- {line}" for line in _verdicts(summary)]
    return "\n".join([_title(summary), "", *lines, "", *verdicts]) + "\n"


def _title(summary: Mapping[str, Any]) -> str:
    data = summary["data"]
    speakers = f" by {data['speakers']} speakers" if data["speakers"] else ""
    return f"Test split: {data['utterances']} utterances, {data['words']} words{speakers}"


def _headers(summary: Mapping[str, Any]) -> list[str]:
    interval = f"[{100 * summary['confidence']:g} % interval]"
    return [
        "model",
        "parameters",
        "size",
        f"WER %\n{interval}",
        "CER %",
        "S/D/I",
        "real-time\nfactor",
        f"gain, points\n{interval}",
    ]


def _cells(summary: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            label(row),
            f"{row['parameters']:,}",
            _bytes(row["bytes"]),
            _with_interval(row, "wer"),
            f"{100 * row['cer']:.1f}",
            f"{row['substitutions']}/{row['deletions']}/{row['insertions']}",
            f"{row['real_time_factor']:.2g}",
            _gain(row, summary["comparisons"]),
        ]
        for row in summary["models"]
    ]


def _gain(row: Mapping[str, Any], comparisons: Mapping[str, Any]) -> str:
    if row["role"] != "student":
        return ""
    figures = comparisons[row["name"]]
    if figures["gain_wer"] is None:
        return MISSING
    return _with_interval(figures, "gain_wer")


def _with_interval(figures: Mapping[str, Any], name: str) -> str:
    value, low, high = (100 * figures[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _bytes(count: int) -> str:
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"


def _verdicts(summary: Mapping[str, Any]) -> list[str]:
    lines = [f"{name}: {figures['verdict']}" for name, figures in summary["comparisons"].items()]
    return lines + [
        f"{row['name']}: streams, {_latency(row['latency_ms'])}"
        for row in summary["models"]
        if row["role"] == "student" and "latency_ms" in row
    ]


def _latency(figures: Mapping[str, Any]) -> str:
    delay = figures["emission_delay"]
    behind = "" if delay is None else f"; tokens {delay:.0f} ms behind the teacher's"
    return (
        f"{figures['algorithmic']:g} ms of latency, in chunks of {figures['chunk']:g} ms "
        f"computed in {figures['compute_median']:.1f} ms (95 %: {figures['compute_p95']:.1f} ms); "
        f"final text {figures['final_median']:.1f} ms after the end{behind}"
    )
