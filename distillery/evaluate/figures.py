"""TODO: figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.evaluate.candidates import GROUPS
from distillery.models.recogniser import WEIGHTS_FILE


def flat_metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary's numbers as `dvc metrics` shows them: by group, then name."""
    metrics: dict[str, Any] = {"teacher": {}, "students": {}, "controls": {}}
    for row in summary["models"]:
        numbers: dict[str, Any] = _numbers(row)
        if "latency_ms" in row:
            numbers["latency_ms"] = _numbers(row["latency_ms"])
        if row["role"] == "teacher":
            metrics["teacher"] = numbers
            continue
        if row["role"] == "student":
            numbers |= _numbers(summary["comparisons"][row["name"]])
        if len(row["by_seed"]) > 1:
            numbers["seeds"] = _numbers_by_seed(row, summary["comparisons"][row["name"]])
        metrics[GROUPS[row["role"]]][row["name"]] = numbers
    metrics["exports"] = {
        name: {form: _numbers(figures) for form, figures in export["formats"].items()}
        for name, export in summary["exports"].items()
    }
    return metrics


def _numbers_by_seed(
    row: Mapping[str, Any], comparison: Mapping[str, Any]
) -> dict[str, dict[str, int | float]]:
    """Return the few figures of each seed that people compare."""
    seeds = {
        str(run["seed"]): _numbers({name: run[name] for name in ("wer", "valid_wer")})
        for run in row["by_seed"]
    }
    if row["role"] == "student":
        for gain in comparison["by_seed"]:
            seeds[str(gain["seed"])] |= _numbers(
                {name: gain[name] for name in ("gain_wer", "gap_closed")}
            )
    return seeds


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def weights_bytes(folder: Path) -> int:
    """Return the size of a saved model's weights, whatever files they are in."""
    if (folder / WEIGHTS_FILE).exists():
        return (folder / WEIGHTS_FILE).stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
