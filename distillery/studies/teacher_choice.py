"""Teachers compared before one is chosen: figures, their order, and what is told at the end.

Everything is measured on the transcribed validation split, so that the test split stays unseen by
the choice. The order is that of what a pilot student gained over its control, for the recogniser
with the fewest errors is not always the one that teaches best.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from distillery.console import as_text, new_table
from distillery.data.scoring import SeedsResult, count_errors, rate_over_seeds
from distillery.evaluate.comparison import verdict
from distillery.evaluate.evaluate import describe
from distillery.evaluate.predictions import BOOTSTRAP_SEED
from distillery.evaluate.records import Estimate
from distillery.evaluate.tables import MISSING, with_interval
from distillery.files import write_bytes, write_json
from distillery.params.evaluate import EvaluateParams
from distillery.params.whole import Params
from distillery.studies.fit import Fit
from distillery.studies.plots import plot_teachers

CSV_FILE, JSON_FILE, PLOT_FILE = "teachers.csv", "teachers.json", "teachers.png"
MEGABYTE = 1e6
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class PilotResult:
    """What one pilot's student and control heard on the validation split."""

    seed: int
    student: Sequence[str]
    """Texts, one per utterance."""
    control: Sequence[str]


@dataclass(frozen=True)
class Candidate:
    """All that was found out about one teacher; what could not be is None or empty."""

    name: str
    kind: str
    problem: str | None = None
    """Why it cannot work at all."""
    num_parameters: int | None = None
    num_tokens: int | None = None
    frame_shift_seconds: float | None = None
    gives_frames: bool | None = None
    texts: Sequence[str] | None = None
    """What it heard, one text per validation utterance."""
    calibration_error: float | None = None
    calibrated_over: str | None = None
    """What calibration counts: tokens, or whole texts of a teacher that gives no frames."""
    seconds_per_hour: float | None = None
    """Teacher's time for an hour of audio, in seconds."""
    cache_bytes_per_hour: float | None = None
    fits: Sequence[Fit] = ()
    """One per configured student."""
    pilots: Sequence[PilotResult] = ()
    """One per seed."""
    pilot_problem: str | None = None
    """Why no pilot was trained, where the teacher itself works."""

    def fit_of(self, student: str) -> Fit | None:
        """Return how it fits one of the students."""
        return next((fit for fit in self.fits if fit.student == student), None)


@dataclass(frozen=True)
class Errors:
    """Word errors on the validation split."""

    words: np.ndarray = field(repr=False)  # (utterances,)
    references: Sequence[Sequence[str]]
    params: EvaluateParams

    @classmethod
    def against(cls, texts: Sequence[str], params: EvaluateParams) -> Errors:
        """Prepare to count errors against reference texts."""
        references = [text.split() for text in texts]
        return cls(np.array([len(words) for words in references]), references, params)

    def of(self, hypotheses: Sequence[str]) -> np.ndarray:
        """Return the errors in each utterance `(utterances,)`."""
        pairs = zip(self.references, hypotheses, strict=True)
        return np.array([count_errors(words, said.split()).errors for words, said in pairs])

    def rate(self, errors: np.ndarray) -> SeedsResult:
        """Return the rate of errors, or of differences of them, `(seeds, utterances)`."""
        return rate_over_seeds(
            errors, self.words, self.params.num_resamples, self.params.confidence, BOOTSTRAP_SEED
        )


def disagreement(first: Sequence[str], second: Sequence[str]) -> float:
    """Return how much two sets of texts differ, in [0, 2]: word edits by the mean number of words.

    The word error rate between them, made the same from both sides. Two that say nothing agree.
    """
    pairs = [(a.split(), b.split()) for a, b in zip(first, second, strict=True)]
    edits = sum(count_errors(a, b).errors for a, b in pairs)
    words = sum(len(a) + len(b) for a, b in pairs)
    return 2 * edits / words if words else 0.0


def summarise(
    candidates: Sequence[Candidate], rows: pd.DataFrame, pilot_hours: float, settings: Params
) -> dict[str, Any]:
    """Return all figures, the candidates in the order of what their pilots gained.

    Those without a pilot stand behind, by their WER, and at the end those that cannot work.

    Args:
        candidates: what was found out.
        rows: the transcribed validation utterances, in the order of all texts.
        pilot_hours: audio that a pilot learns from.
        settings: the whole of params.yaml.
    """
    errors = Errors.against(list(rows["text"]), settings.evaluate)
    pilot = settings.teacher_candidates.pilot
    rated = sorted((_rated(item, errors, settings) for item in candidates), key=_order)
    heard = {item.name: item.texts for item in candidates if item.texts is not None}
    pairs = {(a, b): disagreement(heard[a], heard[b]) for a, b in itertools.combinations(heard, 2)}
    names = [row["name"] for row in rated if row["name"] in heard]
    return {
        "confidence": settings.evaluate.confidence,
        "data": describe(rows).entries(),
        "pilot": {
            "student": settings.pilot_student,
            "fraction": pilot.fraction,
            "hours": pilot_hours,
            "num_epochs": pilot.num_epochs,
            "seeds": list(pilot.seeds),
        },
        "candidates": rated,
        "lead": _lead(candidates, rated, errors),
        "disagreement": {
            a: {b: pairs.get((a, b), pairs.get((b, a), 0.0)) for b in names} for a in names
        },
    }


def _rated(item: Candidate, errors: Errors, settings: Params) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": item.name,
        "kind": item.kind,
        "problem": item.problem,
        "parameters": item.num_parameters,
        "tokens": item.num_tokens,
        "frame_shift_seconds": item.frame_shift_seconds,
        "gives_frames": item.gives_frames,
        "calibration_error": item.calibration_error,
        "calibrated_over": item.calibrated_over,
        "seconds_per_hour": item.seconds_per_hour,
        "cache_bytes_per_hour": item.cache_bytes_per_hour,
        "fits": {
            fit.student: {"problems": dict(fit.problems), "works": fit.works} for fit in item.fits
        },
        "pilot_problem": item.pilot_problem,
    }
    if item.texts is not None:
        row |= Estimate.of(errors.rate(errors.of(item.texts)[None])).entries("wer")
    if item.pilots:
        fit = item.fit_of(settings.pilot_student)
        student, control = _pilot_errors(item, errors)
        gain = errors.rate(control - student)
        row["pilot"] = {
            "learns": fit.works if fit else None,
            **Estimate.of(errors.rate(student)).entries("student_wer"),
            **Estimate.of(errors.rate(control)).entries("control_wer"),
            **Estimate.of(gain).entries("gain_wer"),
            "verdict": verdict(gain),
        }
    return row


def _pilot_errors(item: Candidate, errors: Errors) -> tuple[np.ndarray, np.ndarray]:
    """Return word errors of students and of controls, each `(seeds, utterances)`."""
    students = [errors.of(pilot.student) for pilot in item.pilots]
    return np.stack(students), np.stack([errors.of(pilot.control) for pilot in item.pilots])


def _order(row: Summary) -> tuple[bool, bool, float, float]:
    gain = row["pilot"]["gain_wer"] if "pilot" in row else 0.0
    return row["problem"] is not None, "pilot" not in row, -gain, row.get("wer", math.inf)


def _lead(
    candidates: Sequence[Candidate], rated: Sequence[Summary], errors: Errors
) -> dict[str, Any] | None:
    """Return how much more the first one's students gained than the second one's."""
    by_name = {item.name: item for item in candidates}
    names = [row["name"] for row in rated if "pilot" in row]
    if len(names) < 2:
        return None
    gains = []
    for name in names[:2]:
        student, control = _pilot_errors(by_name[name], errors)
        gains.append(control - student)
    result = errors.rate(gains[0] - gains[1])
    return {
        "first": names[0],
        "second": names[1],
        **Estimate.of(result).entries("gain_wer"),
        "significant": result.significant,
    }


# --- what is told ------------------------------------------------------------------------------


def table_of(summary: Summary) -> pd.DataFrame:
    """Return the figures as a table, one row per candidate."""
    rows = []
    for row in summary["candidates"]:
        pilot = row.get("pilot", {})
        rows.append(
            {
                "teacher": row["name"],
                "kind": row["kind"],
                **{name: row.get(name) for name in ("wer", "wer_low", "wer_high")},
                **{
                    name: row[name]
                    for name in (
                        "calibration_error",
                        "calibrated_over",
                        "seconds_per_hour",
                        "cache_bytes_per_hour",
                        "parameters",
                        "tokens",
                        "frame_shift_seconds",
                        "gives_frames",
                    )
                },
                "fits": "; ".join(_fit_words(row)),
                "pilot_learns": pilot.get("learns"),
                **{
                    f"pilot_{name}": pilot.get(name)
                    for name in (
                        *_columns("student_wer"),
                        *_columns("control_wer"),
                        *_columns("gain_wer"),
                    )
                },
                "problem": row["problem"] or row["pilot_problem"],
            }
        )
    whole = {"parameters": "Int64", "tokens": "Int64"}
    return pd.DataFrame(rows).astype(whole)


def _columns(name: str) -> tuple[str, ...]:
    return (name, f"{name}_sd", f"{name}_low", f"{name}_high")


def write_report(summary: Summary, folder: Path) -> None:
    """Write the figures, the table and the picture of the choice.

    Args:
        summary: what `summarise` returns.
        folder: receives teachers.json, teachers.csv and teachers.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    csv = table_of(summary).to_csv(index=False, float_format="%.6f")
    write_json(folder / JSON_FILE, summary)
    write_bytes(folder / CSV_FILE, csv.encode())
    plot_teachers(summary, folder / PLOT_FILE)


def render(summary: Summary) -> str:
    """Return the choice as text for the terminal, 100 columns wide."""
    items: list[Table | str] = [_main_table(summary), *remarks(summary)]
    if len(summary["disagreement"]) > 1:
        heading = "Disagreement: word edits between two teachers' texts by their mean length, %"
        items += ["", heading, _disagreement_table(summary)]
    return as_text(*items)


def _main_table(summary: Summary) -> Table:
    data = summary["data"]
    title = f"Validation split: {data['utterances']} utterances, {data['words']} words"
    interval = f"[{100 * summary['confidence']:g} %]"
    table = new_table(title)
    table.add_column("teacher\n(kind)", overflow="fold")
    for header in (
        f"WER %\n{interval}",
        "ECE %",
        "s per\nhour",
        "MB per\nhour",
        "students\nthat fit",
        f"its student,\nWER %\n{interval}",
        f"gain,\npoints\n{interval}",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in summary["candidates"]:
        table.add_row(*_cells(row))
    return table


def _cells(row: Summary) -> list[str]:
    if row["problem"]:
        return [f"{row['name']}\n({row['kind']})", *[MISSING] * 7]
    pilot, fits = row.get("pilot"), row["fits"].values()
    error, size = row["calibration_error"], row["cache_bytes_per_hour"]
    return [
        f"{row['name']}\n({row['kind']})",
        with_interval(Estimate.among(row, "wer"), "\n") if "wer" in row else MISSING,
        MISSING if error is None else f"{100 * error:.1f}",
        MISSING if row["seconds_per_hour"] is None else f"{row['seconds_per_hour']:.3g}",
        MISSING if size is None else f"{size / MEGABYTE:.3g}",
        f"{sum(not fit['problems'] for fit in fits)} of {len(fits)}",
        with_interval(Estimate.among(pilot, "student_wer"), "\n") if pilot else MISSING,
        with_interval(Estimate.among(pilot, "gain_wer"), "\n") if pilot else MISSING,
    ]


def remarks(summary: Summary) -> list[str]:
    """Return what stands below the table: the pilot, the verdict, what fits not, what failed."""
    pilot, rows = summary["pilot"], summary["candidates"]
    seeds = ", ".join(map(str, pilot["seeds"]))
    controls = sorted(
        {round(100 * row["pilot"]["control_wer"], 1) for row in rows if "pilot" in row}
    )
    lines = [
        f"pilot: student {pilot['student']}, {pilot['hours']:.3g} h "
        f"({100 * pilot['fraction']:g} %) of the training audio, {pilot['num_epochs']} epochs, "
        f"seed {seeds}; control WER {' or '.join(f'{wer:g}' for wer in controls) or MISSING} %"
    ]
    if advice := _advice(summary):
        lines.append(advice)
    if of_texts := [row["name"] for row in rows if row["calibrated_over"] == "texts"]:
        lines.append(f"{', '.join(of_texts)}: ECE of whole texts, not to be compared with others'")
    lines += [f"{row['name']}: {text}" for row in rows for text in _fit_words(row)]
    lines += [
        f"{row['name']}: no pilot: {row['pilot_problem']}" for row in rows if row["pilot_problem"]
    ]
    lines += [f"{row['name']}: cannot work: {row['problem']}" for row in rows if row["problem"]]
    return lines


def _fit_words(row: Summary) -> list[str]:
    """Return for each student that fits not quite: why, and what works."""
    lines = []
    for student, fit in row["fits"].items():
        if fit["problems"]:
            why = "; ".join(f"no {what}, for {reason}" for what, reason in fit["problems"].items())
            lines.append(f"student {student}: {why}; what works: {fit['works']}")
    return lines


def _advice(summary: Summary) -> str | None:
    """Return which teacher to take, and how sure that is."""
    tried = [row for row in summary["candidates"] if "pilot" in row]
    if not tried:
        return None
    first, gain = tried[0], 100 * tried[0]["pilot"]["gain_wer"]
    words = f"best teacher: {first['name']}, whose student gained {gain:.1f} points of WER"
    if lead := summary["lead"]:
        more, low, high = (100 * lead[f"gain_wer{end}"] for end in ("", "_low", "_high"))
        sure = "" if lead["significant"] else ", no significant lead"
        words += f", {more:.1f} ({low:.1f} to {high:.1f}) more than with {lead['second']}{sure}"
    best = min((row for row in tried if "wer" in row), key=lambda row: row["wer"], default=first)
    if best["name"] != first["name"]:
        words += f"; {best['name']} is the better recogniser"
    return words


def _disagreement_table(summary: Summary) -> Table:
    names = list(summary["disagreement"])
    table = new_table()
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for a in names:
        values = summary["disagreement"][a]
        table.add_row(a, *("" if a == b else f"{100 * values[b]:.1f}" for b in names))
    return table


def metrics(summary: Summary) -> dict[str, float]:
    """Return the figures as MLflow keeps them, by candidate."""
    found: dict[str, float | None] = {}
    for row in summary["candidates"]:
        names = ("wer", "calibration_error", "seconds_per_hour", "cache_bytes_per_hour")
        found |= {f"{row['name']}/{name}": row.get(name) for name in (*names, "parameters")}
        pilot = row.get("pilot", {})
        for name in ("student_wer", "control_wer", "gain_wer"):
            found |= {f"{row['name']}/pilot_{key}": pilot.get(key) for key in _columns(name)}
    return {name: float(value) for name, value in found.items() if value is not None}
