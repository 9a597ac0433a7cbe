"""What a study says: rates over the seeds, gains with their intervals, goals and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillery.data.scoring import SeedsResult, rate_over_seeds
from distillery.errors import DistilleryError
from distillery.evaluate.comparison import gap_closed

NUM_RESAMPLES, CONFIDENCE, BOOTSTRAP_SEED = 1000, 0.95, 0
Row = dict[str, Any]
"""A row of the results, as the JSON has it."""


def over_seeds(errors: np.ndarray, words: np.ndarray) -> SeedsResult:
    """Return the rate of each seed, and the interval of their mean.

    Args:
        errors: of each utterance under each seed `(seeds, utterances)`, or differences of such.
        words: reference length of each utterance `(utterances,)`.
    """
    return rate_over_seeds(errors, words, NUM_RESAMPLES, CONFIDENCE, BOOTSTRAP_SEED)


def rates(name: str, errors: np.ndarray, words: np.ndarray) -> Row:
    """Return the mean over the seeds, its interval and each seed's, of errors `(seeds, utts)`."""
    found = over_seeds(errors, words)
    return {
        name: found.mean,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_by_seed": list(found.by_seed),
    }


def summarise(
    students: Sequence[Mapping[str, Any]],
    controls: Sequence[Mapping[str, Any]],
    teacher_run: Mapping[str, Any],
) -> Row:
    """Return a row of the table: mean WERs over the seeds, gain with interval, gap closed.

    With controls also what the pipeline keeps by default, see `as_kept`.

    Args:
        students: one run per seed.
        controls: those of the same seeds; none where nothing is transcribed.
        teacher_run: the teacher's.
    """
    words = np.array(teacher_run["words"])
    teacher_errors = np.array(teacher_run["word_errors"])
    own = np.array([run["word_errors"] for run in students])
    teacher_wer = float(teacher_errors.sum() / words.sum())
    row: Row = {
        **rates("wer", own, words),
        **_training("", students),
        "parameters": students[0]["parameters"],
        "teacher_wer": teacher_wer,
    }
    if teacher_run["parameters"]:  # a service or a file of texts tells none
        row["times_smaller"] = teacher_run["parameters"] / students[0]["parameters"]
    if "word_errors_lm" in students[0]:
        row |= rates("wer_lm", np.array([run["word_errors_lm"] for run in students]), words)
        row["valid_wer_lm"] = float(np.mean([run["valid_wer_lm"] for run in students]))
    for name in ("wer", "wer_lm"):
        if name in row and teacher_wer < 1:
            share = name.replace("wer", "accuracy_share")
            row[share] = (1 - row[name]) / (1 - teacher_wer)
    if not controls:
        return row
    plain = np.array([run["word_errors"] for run in controls])
    control, gain = rates("control_wer", plain, words), rates("gain_wer", plain - own, words)
    mean = control["control_wer"]
    return {
        **row,
        **control,
        **gain,
        **_training("control_", controls),
        "relative_gain": gain["gain_wer"] / mean if mean else None,
        "gap_closed": gap_closed((plain - own).sum(), (plain - teacher_errors).sum()),
        **_as_served(students, controls, words),
        **as_kept(students, controls, words),
    }


def _as_served(
    students: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]], words: np.ndarray
) -> Row:
    """Return rates and gain with the shipped decoder, where both have one; as of `summarise`."""
    if not all("word_errors_lm" in run for run in (*students, *controls)):
        return {}
    own, plain = (
        np.array([run["word_errors_lm"] for run in runs]) for runs in (students, controls)
    )
    found = rates("control_wer_lm", plain, words) | rates("gain_wer_lm", plain - own, words)
    mean = found["control_wer_lm"]
    return {**found, "relative_gain_lm": found["gain_wer_lm"] / mean if mean else None}


def as_kept(
    students: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]], words: np.ndarray
) -> Row:
    """Return what a row is worth under `distill.fall_back`: the better of two on validation.

    Each seed has its student, or its control where that has the lower WER on validation; nothing
    is trained for it, and nothing of the test split is read for the choice.

    Args:
        students: one run per seed.
        controls: those of the same seeds.
        words: reference length of each test utterance `(utterances,)`.

    Returns:
        `kept_wer`, its gain over the controls `kept_gain_wer`, both with interval and by seed, and
        `controls_kept`, of how many seeds the control was kept.
    """
    falls_back = [
        control["valid_wer"] < student["valid_wer"]
        for student, control in zip(students, controls, strict=True)
    ]
    plain = np.array([run["word_errors"] for run in controls])
    own = np.array([run["word_errors"] for run in students])
    kept = np.where(np.array(falls_back)[:, None], plain, own)  # (seeds, utterances)
    return {
        **rates("kept_wer", kept, words),
        **rates("kept_gain_wer", plain - kept, words),
        "controls_kept": sum(falls_back),
    }


def _training(prefix: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    """Return what is known of trainings beside their errors on the test split."""
    row: Row = {
        f"{prefix}valid_wer": float(np.mean([run["valid_wer"] for run in runs])),
        f"{prefix}valid_wer_by_seed": [run["valid_wer"] for run in runs],
        f"{prefix}num_epochs": [run["num_epochs"] for run in runs],
    }
    for name in ("cpu_seconds", "converged"):  # runs of before they were counted have none
        values = [run.get(name) for run in runs]
        if None not in values:
            row[prefix + name] = values
    return row


def check_goal(row: Mapping[str, Any], goal: Mapping[str, Any]) -> dict[str, bool]:
    """Return for each part of a goal whether a row reaches it.

    Args:
        row: as `summarise` returns it.
        goal: least values of some of its figures, and `significant`: the interval excludes 0.

    Raises:
        DistilleryError: the goal names a figure that a row does not have.
    """
    if unknown := set(goal) - set(row) - {"significant"}:
        raise DistilleryError(f"goal: {sorted(unknown)} is no figure, expected {sorted(row)}")
    reached = {
        name: row[name] is not None and row[name] >= least
        for name, least in goal.items()
        if name != "significant"
    }
    if goal.get("significant"):
        reached["significant"] = row["gain_wer_low"] > 0
    return reached


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of a study; what none of its rows has is no column.

    "As kept" is what the pipeline keeps: of each seed the better of student and control on
    validation. Below the table stands which controls were still improving.
    """
    has_lm = any("wer_lm" in row for row in rows.values())
    has_controls = any("control_wer" in row for row in rows.values())
    has_course = any("cpu_seconds" in row for row in rows.values())
    head = ["row", "errors, % (by seed)", "on validation"]
    head += ["as served, %", "its control"] if has_lm else []
    if has_controls:
        head += ["control, %", "on validation"]
        head += ["gain, points (95 %)", "relative", "gap closed"]
        head += ["as kept, %", "gain as kept, points (95 %)", "control kept"]
    head += ["epochs", "CPU s", "converged"] if has_course else []
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        cells = [name, _rate_by_seed(row, "wer"), percent(row["valid_wer"])]
        if has_lm:
            cells += [
                _rate_by_seed(row, name) if name in row else "–"
                for name in ("wer_lm", "control_wer_lm")
            ]
        if has_controls:
            cells += _beside_control(row)
        cells += _course(row) if has_course else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *still_improving(rows)])


def _beside_control(row: Mapping[str, Any]) -> list[str]:
    closed, relative = row["gap_closed"], row["relative_gain"]
    return [
        percent(row["control_wer"]),
        percent(row["control_valid_wer"]),
        _with_interval(row, "gain_wer"),
        "–" if relative is None else f"{100 * relative:.1f} %",
        "–" if closed is None else f"{100 * closed:.0f} %",
        _rate_by_seed(row, "kept_wer"),
        _with_interval(row, "kept_gain_wer"),
        f"{row['controls_kept']} of {len(row['kept_wer_by_seed'])}",
    ]


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{percent(row[name])} ({percent(low)} to {percent(high)})"


def _course(row: Mapping[str, Any]) -> list[str]:
    """Return epochs, CPU seconds and convergence of student / control, means over the seeds."""
    cells = []
    for name in ("num_epochs", "cpu_seconds"):
        found = [row[prefix + name] for prefix in ("", "control_") if prefix + name in row]
        cells.append(" / ".join(f"{np.mean(values):.0f}" for values in found) or "–")
    found = [
        row[f"{prefix}converged"] for prefix in ("", "control_") if f"{prefix}converged" in row
    ]
    cells.append(" / ".join(f"{sum(values)} of {len(values)}" for values in found) or "–")
    return cells


def still_improving(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each row whose control had not converged: its gain may be speed."""
    lines = []
    for name, row in rows.items():
        converged = row.get("control_converged", [])
        if not all(converged):
            lines.append(
                f"{name}: {converged.count(False)} of {len(converged)} controls were still "
                "improving: part of the gain may be speed"
            )
    return ["", *lines] if lines else []


def percent(rate: float) -> str:
    """Return a rate in percent, with one digit behind the point."""
    return f"{100 * rate:.1f}"


def _rate_by_seed(row: Mapping[str, Any], name: str) -> str:
    each = ", ".join(f"{100 * rate:.1f}" for rate in row[f"{name}_by_seed"])
    return f"{100 * row[name]:.1f} ({each})"


def plot_gains(results: Mapping[str, Any], path: Path) -> None:
    """Draw each row's gain over its control with its interval, in points of WER."""
    from matplotlib.figure import Figure

    rows = {name: row for name, row in results["rows"].items() if "gain_wer" in row}
    figure = Figure(figsize=(9, 1.5 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        gain, low, high = (100 * row[key] for key in ("gain_wer", "gain_wer_low", "gain_wer_high"))
        colour = "#0072b2" if low > 0 else "#d55e00" if high < 0 else "#4d4d4d"
        axes.errorbar(gain, place, xerr=[[gain - low], [high - gain]], fmt="o", color=colour)
        axes.annotate(
            f"{100 * row['wer']:.1f} %", (high, place), (6, -3), textcoords="offset points"
        )
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.12)
    axes.set_xlabel("gain over the control, points of WER (95 % interval); beside it the WER")
    axes.set_title(results["title"])
    figure.savefig(path, dpi=110)
