"""The evaluation's summary as a table: for terminals, for Markdown.

Imports no model code, so that showing results is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from distillery.console import COLUMNS, as_text, new_table

MISSING = "-"
COUNTS = ("substitutions", "deletions", "insertions")
EXPORT_HEADERS = (
    "exported",
    "format",
    "size",
    "WER %",
    "S/D/I",
    "largest change\nof ln p",
    "same\ntexts",
    "real-time\nfactor",
)
SHORT_HEADERS = {"WER %, language model": "WER % with LM", "real-time factor": "RTF"}
MOSTLY = 0.5
ADVICE = "it needs more data, longer training, or another objective or learning rate"


def label(row: Mapping[str, Any]) -> str:
    """Return how tables and pictures call a model."""
    return "teacher" if row["role"] == "teacher" else f"{row['role']} {row['name']}"


def runs_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a model's rows by seed; the teacher's own, which has none."""
    return list(row.get("by_seed") or [row])


def results_table(summary: Mapping[str, Any]) -> Table:
    """Return the table of all models: the teacher, then each student behind its control.

    Where it would be too wide, intervals stand below their values.

    Args:
        summary: what summary.json holds.
    """
    table = _table(summary, " ")
    fits = Console(width=10 * COLUMNS).measure(table).maximum <= COLUMNS
    return table if fits else _table(summary, "\n")


def _table(summary: Mapping[str, Any], before_interval: str) -> Table:
    table = new_table(title(summary))
    headers = table_headers(summary)
    table.add_column(headers[0], overflow="fold")
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    for cells in table_cells(summary, before_interval):
        table.add_row(*cells)
    return table


def render_table(summary: Mapping[str, Any]) -> str:
    """Return the table, each student's verdict and what to mind as text, 100 columns wide."""
    return as_text(results_table(summary), "", exports_table(summary), "", *remarks(summary))


def markdown_table(summary: Mapping[str, Any]) -> str:
    """Return the table, each student's verdict and what to mind as Markdown."""
    # Pages cut wide tables off: what intervals they are stands above.
    headers = [
        header.partition("[")[0].strip().replace("-\n", "-").replace("\n", " ")
        for header in table_headers(summary)
    ]
    headers = [SHORT_HEADERS.get(header, header) for header in headers]
    intervals = f"; in brackets {100 * summary['confidence']:g} % intervals"
    rules = [":--", *["--:"] * (len(headers) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (headers, rules, *table_cells(summary, " "))]
    headers = [header.replace("\n", " ") for header in EXPORT_HEADERS]
    rules = [":--", ":--", *["--:"] * (len(headers) - 2)]
    exports = [f"| {' | '.join(cells)} |" for cells in (headers, rules, *export_cells(summary))]
    notes = [f"- {line}" for line in remarks(summary)]
    first = title(summary) + intervals
    return "\n".join([first, "", *lines, "", *exports, "", *notes]) + "\n"


def with_distance(markdown: str) -> str:
    """Return Markdown whose tables can be read on MLflow's page of a version, too.

    There cells stand side by side with nothing between them.
    """
    return "\n".join(
        line.replace(" | ", " | &nbsp;&nbsp;")
        if line.startswith("| ") and not line.startswith("| :--")
        else line
        for line in markdown.split("\n")
    )


def exports_table(summary: Mapping[str, Any]) -> Table:
    """Return the table of every student's best seed in every format.

    Args:
        summary: what summary.json holds.
    """
    table = new_table()
    for index, header in enumerate(EXPORT_HEADERS):
        table.add_column(header, justify="left" if index < 2 else "right", no_wrap=index > 0)
    for cells in export_cells(summary):
        table.add_row(*cells)
    return table


def export_cells(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of that table: of each student PyTorch's first, then those exported."""
    cells = []
    for name, export in summary["exports"].items():
        (row,) = (
            row for row in summary["models"] if row["role"] == "student" and row["name"] == name
        )
        (eager,) = (run for run in row["by_seed"] if run["seed"] == export["seed"])
        seed = f", seed {export['seed']}" if len(row["by_seed"]) > 1 else ""
        for form, figures in {"torch": eager, **export["formats"]}.items():
            is_eager = form == "torch"
            cells.append(
                [
                    f"{name}{seed}" if is_eager else "",
                    form,
                    _bytes(figures["bytes"]),
                    f"{100 * figures['wer']:.1f}",
                    "/".join(f"{figures[kind]:.0f}" for kind in COUNTS),
                    MISSING if is_eager else f"{figures['max_log_prob_difference']:.1g}",
                    MISSING if is_eager else f"{100 * figures['same_texts_fraction']:.0f} %",
                    f"{figures['real_time_factor']:.2g}",
                ]
            )
    return cells


def title(summary: Mapping[str, Any]) -> str:
    """Return in a line what was scored, and from how many seeds."""
    data = summary["data"]
    speakers = f" by {data['speakers']} speakers" if data["speakers"] else ""
    seeds = len(summary["seeds"])
    means = f"; means ± standard deviations over {seeds} seeds" if seeds > 1 else ""
    return f"Test split: {data['utterances']} utterances, {data['words']} words{speakers}{means}"


def table_headers(summary: Mapping[str, Any]) -> list[str]:
    """Return the headers of the table of all models; line ends are where to break them."""
    interval = f"[{100 * summary['confidence']:g} % interval]"
    return [
        "model",
        "parameters",
        "size",
        f"WER %\n{interval}",
        *([f"WER %,\nlanguage\nmodel\n{interval}"] if _has_language_model(summary) else []),
        "CER %",
        "S/D/I",
        "real-\ntime\nfactor",
        f"gain, points\n{interval}",
        "gap\nclosed",
    ]


def table_cells(summary: Mapping[str, Any], before_interval: str) -> list[list[str]]:
    """Return the cells, a row for each model.

    Args:
        summary: what summary.json holds.
        before_interval: what stands between a value and its interval.
    """
    return [
        [
            label(row),
            f"{row['parameters']:,}",
            _bytes(row["bytes"]),
            with_interval(row, "wer", before_interval),
            *_with_language_model(row, summary, before_interval),
            f"{100 * row['cer']:.1f}",
            "/".join(f"{row[kind]:.0f}" for kind in COUNTS),
            f"{row['real_time_factor']:.2g}",
            *_gain(row, summary["comparisons"], before_interval),
        ]
        for row in summary["models"]
    ]


def _has_language_model(summary: Mapping[str, Any]) -> bool:
    return any("wer_lm" in row for row in summary["models"])


def _with_language_model(
    row: Mapping[str, Any], summary: Mapping[str, Any], before_interval: str
) -> list[str]:
    """Return the cell of the WER with the language model, none where no model was so measured."""
    if not _has_language_model(summary):
        return []
    return [with_interval(row, "wer_lm", before_interval) if "wer_lm" in row else MISSING]


def _gain(
    row: Mapping[str, Any], comparisons: Mapping[str, Any], before_interval: str
) -> tuple[str, str]:
    """Return the cells of what distillation gained, and of the gap that it closed."""
    if row["role"] != "student":
        return "", ""
    figures = comparisons[row["name"]]
    if figures["gain_wer"] is None:
        return MISSING, MISSING
    closed, sd = figures["gap_closed"], figures["gap_closed_sd"]
    share = MISSING if closed is None else f"{100 * closed:.0f} %"
    if closed is not None and sd is not None:
        share = f"{100 * closed:.0f} ± {100 * sd:.0f} %"
    return with_interval(figures, "gain_wer", before_interval), share


def with_interval(figures: Mapping[str, Any], name: str, before_interval: str) -> str:
    """Return a rate in percent, with its spread over seeds if there are several, and interval."""
    value, low, high = (100 * figures[f"{name}{end}"] for end in ("", "_low", "_high"))
    sd = figures[f"{name}_sd"]
    spread = "" if sd is None else f" ± {100 * sd:.1f}"
    return f"{value:.1f}{spread}{before_interval}[{low:.1f}, {high:.1f}]"


def _bytes(count: int) -> str:
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """Return what stands below the table: verdicts, latencies, useless models, filtered texts."""
    verdicts = [f"{name}: {figures['verdict']}" for name, figures in summary["comparisons"].items()]
    streams = [
        f"{row['name']}: streams, {_latency(row['latency_ms'])}"
        for row in summary["models"]
        if row["role"] == "student" and "latency_ms" in row
    ]
    complaints = [complaint(row) for row in summary["models"]]
    drops = [
        f"{name}: {drops_line(report)}"
        for name, report in summary["filters"].items()
        if report is not None and report["dropped"]
    ]
    decoded = [
        f"{name}: with the language model the gain is {with_interval(figures, 'gain_wer_lm', ' ')} "
        "points"
        for name, figures in summary["comparisons"].items()
        if "gain_wer_lm" in figures
    ]
    return [*verdicts, *decoded, *streams, *filter(None, complaints), *drops]


def complaint(row: Mapping[str, Any]) -> str | None:
    """Return a sentence about a model that is of no use yet, None of one that may be."""
    if row["empty_fraction"] > MOSTLY:
        fault = f"says nothing on {100 * row['empty_fraction']:.0f} % of the utterances"
    elif row["wer"] > 1:
        fault = f"makes more errors than there are words ({100 * row['wer']:.0f} %)"
    else:
        return None
    return f"{label(row)} {fault}: {ADVICE}"


def drops_line(report: Mapping[str, Any]) -> str:
    """Return in one line what the filter dropped.

    Args:
        report: what filter.json holds.
    """
    dropped = report["num_hypotheses"] - report["num_kept"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items())
    return (
        f"the filter dropped {dropped} of {report['num_hypotheses']} teacher texts ({reasons}); "
        f"{report['hours_kept']:.2f} of {report['hours']:.2f} hours kept"
    )


def _latency(figures: Mapping[str, Any]) -> str:
    delay = figures["emission_delay"]
    behind = "" if delay is None else f"; tokens {delay:.0f} ms behind the teacher's"
    return (
        f"{figures['algorithmic']:g} ms of latency, in chunks of {figures['chunk']:g} ms "
        f"computed in {figures['compute_median']:.1f} ms (95 %: {figures['compute_p95']:.1f} ms); "
        f"final text {figures['final_median']:.1f} ms after the end{behind}"
    )
