"""The comparison of teachers as table, picture, text for the terminal, and metrics for MLflow."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.table import Table

from distillery.console import as_text, new_table
from distillery.evaluate.records import Estimate
from distillery.evaluate.tables import MISSING, with_interval
from distillery.files import write_bytes, write_json
from distillery.studies.plots import plot_teachers
from distillery.studies.teacher_choice import CandidateRow, TeacherChoice

CSV_FILE, JSON_FILE, PLOT_FILE = "teachers.csv", "teachers.json", "teachers.png"
MEGABYTE = 1e6
PILOT_RATES = ("student_wer", "control_wer", "gain_wer")


def table_of(choice: TeacherChoice) -> pd.DataFrame:
    """Return the figures as a table, one row per candidate."""
    rows = []
    for row in choice.candidates:
        wer = _entries(row.wer, "wer")
        rows.append(
            {
                "teacher": row.name,
                "kind": row.kind,
                **{name: wer[name] for name in ("wer", "wer_low", "wer_high")},
                "calibration_error": row.calibration_error,
                "calibrated_over": row.calibrated_over,
                "seconds_per_hour": row.seconds_per_hour,
                "cache_bytes_per_hour": row.cache_bytes_per_hour,
                "parameters": row.parameters,
                "tokens": row.tokens,
                "frame_shift_seconds": row.frame_shift_seconds,
                "gives_frames": row.gives_frames,
                "fits": "; ".join(_fit_words(row)),
                "pilot_learns": None if row.pilot is None else row.pilot.learns,
                **_pilot_entries(row),
                "problem": row.problem or row.pilot_problem,
            }
        )
    whole = {"parameters": "Int64", "tokens": "Int64"}
    return pd.DataFrame(rows).astype(whole)


def _entries(estimate: Estimate | None, name: str) -> dict[str, float | None]:
    """Return the parts of an estimate under their names; those of an unknown one are None."""
    if estimate is None:
        return dict.fromkeys((name, f"{name}_sd", f"{name}_low", f"{name}_high"))
    return estimate.entries(name)


def _pilot_entries(row: CandidateRow) -> dict[str, float | None]:
    entries: dict[str, float | None] = {}
    for name in PILOT_RATES:
        estimate = None if row.pilot is None else getattr(row.pilot, name)
        entries |= _entries(estimate, f"pilot_{name}")
    return entries


def write_report(choice: TeacherChoice, folder: Path) -> None:
    """Write the figures, the table and the picture of the choice.

    Args:
        choice: all figures.
        folder: receives teachers.json, teachers.csv and teachers.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    csv = table_of(choice).to_csv(index=False, float_format="%.6f")
    write_json(folder / JSON_FILE, choice.entries())
    write_bytes(folder / CSV_FILE, csv.encode())
    plot_teachers(choice, folder / PLOT_FILE)


def render(choice: TeacherChoice) -> str:
    """Return the choice as text for the terminal, 100 columns wide."""
    items: list[Table | str] = [_main_table(choice), *remarks(choice)]
    if len(choice.disagreement) > 1:
        items += [
            "",
            f"Disagreement: {choice.data.unit} edits between two teachers' texts by their mean "
            "length, %",
            _disagreement_table(choice),
        ]
    return as_text(*items)


def _main_table(choice: TeacherChoice) -> Table:
    data, interval = choice.data, f"[{100 * choice.confidence:g} %]"
    table = new_table(
        f"Validation split: {data.utterances} utterances, {data.words} {data.unit.plural}"
    )
    table.add_column("teacher\n(kind)", overflow="fold")
    for header in (
        f"{data.unit.rate} %\n{interval}",
        "ECE %",
        "s per\nhour",
        "MB per\nhour",
        "students\nthat fit",
        f"its student,\n{data.unit.rate} %\n{interval}",
        f"gain,\npoints\n{interval}",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in choice.candidates:
        table.add_row(*_cells(row))
    return table


def _cells(row: CandidateRow) -> list[str]:
    if row.problem:
        return [f"{row.name}\n({row.kind})", *[MISSING] * 7]
    pilot, fits = row.pilot, row.fits.values()
    error, size = row.calibration_error, row.cache_bytes_per_hour
    return [
        f"{row.name}\n({row.kind})",
        with_interval(row.wer, "\n") if row.wer else MISSING,
        MISSING if error is None else f"{100 * error:.1f}",
        MISSING if row.seconds_per_hour is None else f"{row.seconds_per_hour:.3g}",
        MISSING if size is None else f"{size / MEGABYTE:.3g}",
        f"{sum(not fit.problems for fit in fits)} of {len(fits)}",
        with_interval(pilot.student_wer, "\n") if pilot else MISSING,
        with_interval(pilot.gain_wer, "\n") if pilot else MISSING,
    ]


def remarks(choice: TeacherChoice) -> list[str]:
    """Return what stands below the table: the pilot, the verdict, what fits not, what failed."""
    pilot, rows = choice.pilot, choice.candidates
    seeds = ", ".join(map(str, pilot.seeds))
    controls = sorted({round(100 * row.pilot.control_wer.value, 1) for row in rows if row.pilot})
    rate = choice.data.unit.rate
    lines = [
        f"pilot: student {pilot.student}, {pilot.hours:.3g} h "
        f"({100 * pilot.fraction:g} %) of the training audio, {pilot.num_epochs} epochs, "
        f"seed {seeds}; control {rate} {' or '.join(f'{wer:g}' for wer in controls) or MISSING} %"
    ]
    if advice := _advice(choice):
        lines.append(advice)
    if of_texts := [row.name for row in rows if row.calibrated_over == "texts"]:
        lines.append(f"{', '.join(of_texts)}: ECE of whole texts, not to be compared with others'")
    lines += [f"{row.name}: {text}" for row in rows for text in _fit_words(row)]
    lines += [f"{row.name}: no pilot: {row.pilot_problem}" for row in rows if row.pilot_problem]
    lines += [f"{row.name}: cannot work: {row.problem}" for row in rows if row.problem]
    return lines


def _fit_words(row: CandidateRow) -> list[str]:
    """Return for each student that fits not quite: why, and what works."""
    lines = []
    for student, fit in row.fits.items():
        if fit.problems:
            why = "; ".join(f"no {what}, for {reason}" for what, reason in fit.problems.items())
            lines.append(f"student {student}: {why}; what works: {fit.works}")
    return lines


def _advice(choice: TeacherChoice) -> str | None:
    """Return which teacher to take, and how sure that is."""
    gains = {row.name: row.pilot.gain_wer.value for row in choice.candidates if row.pilot}
    if not gains:
        return None
    first, rate = next(iter(gains)), choice.data.unit.rate
    words = f"best teacher: {first}, whose student gained {100 * gains[first]:.1f} points of {rate}"
    if lead := choice.lead:
        gain = lead.gain_wer
        more, low, high = (100 * value for value in (gain.value, gain.low, gain.high))
        sure = "" if lead.significant else ", no significant lead"
        words += f", {more:.1f} ({low:.1f} to {high:.1f}) more than with {lead.second}{sure}"
    wers = {row.name: row.wer.value for row in choice.candidates if row.wer and row.name in gains}
    best = min(wers, key=wers.__getitem__, default=first)
    if best != first:
        words += f"; {best} is the better recogniser"
    return words


def _disagreement_table(choice: TeacherChoice) -> Table:
    names = list(choice.disagreement)
    table = new_table()
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for a in names:
        values = choice.disagreement[a]
        table.add_row(a, *("" if a == b else f"{100 * values[b]:.1f}" for b in names))
    return table


def metrics(choice: TeacherChoice) -> dict[str, float]:
    """Return the figures as MLflow keeps them, by candidate."""
    found: dict[str, float] = {}
    for row in choice.candidates:
        values: dict[str, float | None] = {
            "wer": None if row.wer is None else row.wer.value,
            "calibration_error": row.calibration_error,
            "seconds_per_hour": row.seconds_per_hour,
            "cache_bytes_per_hour": row.cache_bytes_per_hour,
            "parameters": row.parameters,
            **_pilot_entries(row),
        }
        found |= {
            f"{row.name}/{name}": float(value)
            for name, value in values.items()
            if value is not None
        }
    return found
