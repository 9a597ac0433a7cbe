"""The evaluation's summary as a table: for terminals, for Markdown.

Imports no model code, so that showing results is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from distillery.console import COLUMNS, as_text, new_table
from distillery.data.units import Unit
from distillery.distill.filtering import FilterReport
from distillery.evaluate.rates import Rates
from distillery.evaluate.records import Estimate
from distillery.evaluate.summary import Latency, ModelRow, Row, Summary, TestData, TunedSearch

MISSING = "-"
EXPORT_HEADERS = (
    "exported",
    "format",
    "size",
    "{rate} %",
    "S/D/I",
    "largest change\nof ln p",
    "same\ntexts",
    "real-time\nfactor",
)
"""`{rate}` is the unit's."""
SHORT_HEADERS = {
    "WER %, language model": "WER % with LM",
    "CER %, language model": "CER % with LM",
    "WER %, as served": "WER % served",
    "CER %, as served": "CER % served",
    "real-time factor": "RTF",
}
MOSTLY = 0.5
ADVICE = "it needs more data, longer training, or another objective or learning rate"


@dataclass(frozen=True)
class Column:
    """A column of the table of all models."""

    header: str
    """Line ends are where to break it."""
    cell: Callable[[ModelRow], str]
    """Returns what it shows of a model."""


def training_columns(summary: Summary) -> Sequence[Column]:
    """Return the columns on how models were trained; none where nothing was trained here."""
    return TRAINING if any(row.converged is not None for row in summary.models) else ()


def _converged(row: ModelRow) -> str:
    """Return whether a model's training had converged; of several seeds, how many had."""
    if row.converged is None:
        return MISSING
    count = len(row.by_seed)
    if count > 1:
        return f"{round(count * row.converged)} of {count}"
    return "yes" if row.converged else "no"


TRAINING = (
    Column("epochs", lambda row: MISSING if row.num_epochs is None else f"{row.num_epochs:.0f}"),
    Column("CPU s", lambda row: MISSING if row.cpu_seconds is None else f"{row.cpu_seconds:.0f}"),
    Column("converged", _converged),
)
"""Of the training, means over the seeds."""


def columns(summary: Summary, before_interval: str) -> list[Column]:
    """Return the columns of the table of all models.

    Args:
        summary: the evaluation's.
        before_interval: what stands between a value and its interval.
    """

    def estimate(value: Estimate | None) -> str:
        if value is None:
            return MISSING
        return with_interval(value.complement if in_phrases else value, before_interval)

    unit = summary.data.unit
    is_served = any(row.wer_lm is not None for row in summary.students.values())
    # One column more takes room from others: errors by kind stand in the table of formats, too.
    interval = f"[{100 * summary.confidence:g} %{'' if is_served else ' interval'}]"
    in_phrases = unit is Unit.PHRASE
    header = "phrase\naccuracy" if in_phrases else unit.header
    how = "as\nserved" if is_served else "language\nmodel"
    with_language_model = Column(
        f"{header} %,\n{how}\n{interval}", lambda row: estimate(row.wer_lm)
    )
    in_characters = Column("CER %", lambda row: f"{100 * row.cer.value:.1f}")
    return [
        Column("model", lambda row: row.label),
        Column("parameters", lambda row: f"{row.parameters:,}"),
        Column("size", lambda row: _bytes(row.bytes)),
        Column(f"{header} %\n{interval}", lambda row: estimate(row.wer)),
        *([with_language_model] if any(row.wer_lm is not None for row in summary.models) else []),
        *([in_characters] if unit is Unit.WORD and not is_served else []),
        *([] if in_phrases or is_served else [Column("S/D/I", _counts)]),
        Column("real-\ntime\nfactor", lambda row: f"{row.real_time_factor:.2g}"),
        Column(
            f"gain, points\n{interval}",
            lambda row: (
                _gain(summary.comparisons[row.name].gain_wer, before_interval)
                if row.role == "student"
                else ""
            ),
        ),
        Column("gap\nclosed", lambda row: _gap_closed(row, summary)),
    ]


def _gain(gain: Estimate | None, before_interval: str) -> str:
    return MISSING if gain is None else with_interval(gain, before_interval)


def _gap_closed(row: ModelRow, summary: Summary) -> str:
    if row.role != "student":
        return ""
    closed = summary.comparisons[row.name].gap_closed
    sd = summary.comparisons[row.name].gap_closed_sd
    if closed is None:
        return MISSING
    return f"{100 * closed:.0f} %" if sd is None else f"{100 * closed:.0f} ± {100 * sd:.0f} %"


def table_headers(summary: Summary) -> list[str]:
    """Return the headers of the table of all models; line ends are where to break them."""
    return [column.header for column in _all_columns(summary, " ")]


def table_cells(summary: Summary, before_interval: str) -> list[list[str]]:
    """Return the cells, a row for each model.

    Args:
        summary: the evaluation's.
        before_interval: what stands between a value and its interval.
    """
    shown = _all_columns(summary, before_interval)
    return [[column.cell(row) for column in shown] for row in summary.models]


def _all_columns(summary: Summary, before_interval: str) -> list[Column]:
    return [*columns(summary, before_interval), *training_columns(summary)]


def results_table(summary: Summary) -> Table:
    """Return the table of all models: the teacher, then each student behind its control.

    Where it would be too wide, intervals stand below their values.
    """
    table = _table(summary, " ")
    fits = Console(width=10 * COLUMNS).measure(table).maximum <= COLUMNS
    return table if fits else _table(summary, "\n")


def _table(summary: Summary, before_interval: str) -> Table:
    table = new_table(title(summary.data, len(summary.seeds)))
    _fill(table, columns(summary, before_interval), summary)
    return table


def _fill(table: Table, shown: Sequence[Column], summary: Summary) -> None:
    table.add_column(shown[0].header, overflow="fold")
    for column in shown[1:]:
        table.add_column(column.header, justify="right", no_wrap=True)
    for row in summary.models:
        table.add_row(*(column.cell(row) for column in shown))


def trainings_table(summary: Summary) -> Table | None:
    """Return the table of how models were trained; None where nothing was trained here.

    Elsewhere these columns stand in the table of all models, which is too wide for terminals.
    """
    shown = training_columns(summary)
    if not shown:
        return None
    table = new_table()
    _fill(table, [Column("trained", lambda row: row.label), *shown], summary)
    return table


def export_headers(summary: Summary) -> list[str]:
    """Return the headers of the table of all formats; line ends are where to break them."""
    return [header.format(rate=summary.data.unit.header) for header in EXPORT_HEADERS]


def exports_table(summary: Summary) -> Table:
    """Return the table of every student's best seed in every format."""
    table = new_table()
    for index, header in enumerate(export_headers(summary)):
        table.add_column(header, justify="left" if index < 2 else "right", no_wrap=index > 0)
    for cells in export_cells(summary):
        table.add_row(*cells)
    return table


def export_cells(summary: Summary) -> list[list[str]]:
    """Return the rows of that table: of each student PyTorch's first, then those exported."""
    cells = []
    for name, export in summary.exports.items():
        row = summary.students[name]
        seed = f", seed {export.seed}" if len(row.by_seed) > 1 else ""
        in_pytorch = row.of_seed(export.seed)
        cells.append(
            [
                f"{name}{seed}",
                "torch",
                *_size_and_errors(in_pytorch.bytes, in_pytorch),
                MISSING,
                MISSING,
                f"{in_pytorch.real_time_factor:.2g}",
            ]
        )
        cells += [
            [
                "",
                exported_format,
                *_size_and_errors(figures.bytes, figures),
                f"{figures.max_log_prob_difference:.1g}",
                f"{100 * figures.same_texts_fraction:.0f} %",
                f"{figures.real_time_factor:.2g}",
            ]
            for exported_format, figures in export.formats.items()
        ]
    return cells


def _size_and_errors(num_bytes: int, rates: Rates) -> tuple[str, str, str]:
    wer = f"{100 * rates.wer.value:.1f}"
    if rates.wer_lm is not None:
        wer += f" → {100 * rates.wer_lm.value:.1f}"
    return _bytes(num_bytes), wer, _counts(rates)


def render_table(summary: Summary) -> str:
    """Return the table, each student's verdict and what to mind as text, 100 columns wide."""
    trainings = trainings_table(summary)
    told: list[Table | str] = [] if trainings is None else [trainings, ""]
    exports = exports_table(summary)
    return as_text(results_table(summary), "", *told, exports, "", *remarks(summary))


def markdown_table(summary: Summary) -> str:
    """Return the table, each student's verdict and what to mind as Markdown."""
    # Pages cut wide tables off: what intervals they are stands above.
    headers = [
        header.partition("[")[0].strip().replace("-\n", "-").replace("\n", " ")
        for header in table_headers(summary)
    ]
    headers = [SHORT_HEADERS.get(header, header) for header in headers]
    intervals = f"; in brackets {100 * summary.confidence:g} % intervals"
    rules = [":--", *["--:"] * (len(headers) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (headers, rules, *table_cells(summary, " "))]
    headers = [header.replace("\n", " ") for header in export_headers(summary)]
    rules = [":--", ":--", *["--:"] * (len(headers) - 2)]
    exports = [f"| {' | '.join(cells)} |" for cells in (headers, rules, *export_cells(summary))]
    notes = [f"- {line}" for line in remarks(summary)]
    first = title(summary.data, len(summary.seeds)) + intervals
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


def title(data: TestData, num_seeds: int) -> str:
    """Return in a line what was scored, and from how many seeds."""
    speakers = f" by {data.speakers} speakers" if data.speakers else ""
    means = f"; means ± standard deviations over {num_seeds} seeds" if num_seeds > 1 else ""
    counted = f"{data.utterances} utterances, {data.words} {data.unit.plural}"
    return f"Test split: {counted}{speakers}{means}"


def with_interval(estimate: Estimate, before_interval: str) -> str:
    """Return a rate in percent, with its spread over seeds if there are several, and interval."""
    value, low, high = (100 * rate for rate in (estimate.value, estimate.low, estimate.high))
    spread = "" if estimate.sd is None else f" ± {100 * estimate.sd:.1f}"
    return f"{value:.1f}{spread}{before_interval}[{low:.1f}, {high:.1f}]"


def _counts(rates: Rates) -> str:
    """Return substitutions, deletions and insertions, `12/5/3`."""
    return "/".join(f"{count:.0f}" for count in rates.error_counts.values())


def _bytes(count: int) -> str:
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"


def remarks(summary: Summary) -> list[str]:
    """Return what stands below the table, of each student and of all models.

    Verdicts, students with their controls' weights, trainings that ended early, latencies, useless
    models, filtered texts.
    """
    unit = summary.data.unit
    verdicts = [f"{name}: {item.verdict}" for name, item in summary.comparisons.items()]
    decoded = [
        f"{name}: as served the gain is {with_interval(item.gain_wer_lm, ' ')} points"
        for name, item in summary.comparisons.items()
        if item.gain_wer_lm is not None
    ]
    fallen = [line for name in summary.comparisons for line in _fell_back(name, summary)]
    speed = [line for name in summary.comparisons for line in _still_improving(name, summary)]
    searched = [
        f"{name}: {_search(tuned, unit)}"
        for name, row in summary.students.items()
        if (tuned := summary.search_of(row)) is not None and tuned.bytes is not None
    ]
    streams = [
        f"{name}: streams, {_latency(row.latency_ms)}"
        for name, row in summary.students.items()
        if row.latency_ms is not None
    ]
    complaints = [said for row in summary.models if (said := complaint(row, unit)) is not None]
    if len(complaints) > 1:  # the advice is the same, and stands once
        complaints = [line.removesuffix(f": {ADVICE}") for line in complaints]
        complaints.append(ADVICE.replace("it needs", "these need"))
    drops = [
        f"{name}: {drops_line(report)}"
        for name, report in summary.filters.items()
        if report is not None and report.dropped
    ]
    return [*verdicts, *fallen, *speed, *decoded, *searched, *streams, *complaints, *drops]


def _fell_back(name: str, summary: Summary) -> list[str]:
    """Return a sentence about a student that has its control's weights, from some seed or all."""
    row, count = summary.students[name], len(summary.students[name].by_seed)
    num_fallen = round(count * (row.fell_back or 0))
    if not num_fallen:
        return []
    who = f"{name}: its control was better on validation"
    if num_fallen < count:
        there = "so it has the control's weights there; distillation gained nothing there"
        return [f"{who} for {num_fallen} of {count} seeds, {there}"]
    how = f" for all {count} seeds"
    if count == 1 and row.valid_wer is not None and row.valid_wer_as_trained is not None:
        how = f" ({100 * row.valid_wer:.1f} % against {100 * row.valid_wer_as_trained:.1f} %)"
    return [f"{who}{how}, so the student has the control's weights; distillation gained nothing"]


def _still_improving(name: str, summary: Summary) -> list[str]:
    """Return a sentence about a student whose validation, or its control's, was still improving.

    Nothing of one that has its control's weights: there is no gain to doubt.
    """
    student, control = summary.students[name], summary.controls.get(name)
    if student.fell_back == 1:
        return []
    who = [
        f"{label} ({_converged(row)} seeds had converged)" if len(row.by_seed) > 1 else label
        for label, row in ((f"{name}'s control", control), (name, student))
        if row is not None and row.converged is not None and row.converged < 1
    ]
    if not who:
        return []
    verb = "was" if len(who) == 1 else "were"
    of_control = control is not None and who[0].startswith(f"{name}'s")
    meaning = "part of the gain may be speed" if of_control else "more epochs may make it better"
    return [f"{' and '.join(who)} {verb} still improving: {meaning}"]


def complaint(row: Row, unit: Unit = Unit.WORD) -> str | None:
    """Return a sentence about a model that is of no use yet, None of one that may be.

    Args:
        row: the model's.
        unit: what errors are counted in.
    """
    if row.empty_fraction > MOSTLY:
        fault = f"gives no text for {100 * row.empty_fraction:.0f} % of the utterances"
    elif row.wer.value > 1:
        fault = f"makes more errors than there are {unit.plural} ({100 * row.wer.value:.0f} %)"
    else:
        return None
    return f"{row.label} {fault}: {ADVICE}"


def drops_line(report: FilterReport) -> str:
    """Return in one line what the filter dropped."""
    dropped = report.num_hypotheses - report.num_kept
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
    return (
        f"the filter dropped {dropped} of {report.num_hypotheses} teacher texts ({reasons}); "
        f"{report.hours_kept:.2f} of {report.hours:.2f} hours kept"
    )


def _search(tuned: TunedSearch, unit: Unit) -> str:
    before, after = 100 * tuned.valid_wer_greedy, 100 * tuned.valid_wer
    unknown = "" if tuned.unknown_score is None else f", unknown words {tuned.unknown_score:g}"
    return (
        f"served with a decoder of {_bytes(tuned.bytes or 0)} (weight {tuned.weight:g}, word score "
        f"{tuned.word_score:g}{unknown}): validation {unit.rate} {before:.1f} → {after:.1f} %"
    )


def _latency(latency: Latency) -> str:
    delay = latency.emission_delay
    behind = "" if delay is None else f"; tokens {delay:.0f} ms behind the teacher's"
    return (
        f"{latency.algorithmic:g} ms of latency, in chunks of {latency.chunk:g} ms "
        f"computed in {latency.compute_median:.1f} ms (95 %: {latency.compute_p95:.1f} ms); "
        f"final text {latency.final_median:.1f} ms after the end{behind}"
    )
