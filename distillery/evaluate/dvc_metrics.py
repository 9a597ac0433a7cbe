"""The evaluation's numbers in reports/metrics.json, as `dvc metrics show` and `diff` print them."""

from __future__ import annotations

from collections.abc import Mapping

from distillery.evaluate.comparison import Comparison
from distillery.evaluate.models import FOLDERS
from distillery.evaluate.summary import ModelRow, Summary

Numbers = dict[str, int | float]


def dvc_metrics(summary: Summary) -> dict[str, dict[str, object]]:
    """Return the summary's numbers: `teacher`; by name `students`, `controls` and `exports`."""
    metrics: dict[str, dict[str, object]] = {"teacher": {}, "students": {}, "controls": {}}
    for row in summary.models:
        numbers: dict[str, object] = {**_numbers(row.entries())}
        if row.latency_ms is not None:
            numbers["latency_ms"] = _numbers(row.latency_ms.entries())
        if row.role == "teacher":
            metrics["teacher"] = numbers
            continue
        comparison = summary.comparisons[row.name]
        if row.role == "student":
            numbers |= _numbers(comparison.entries())
        if len(row.by_seed) > 1:
            numbers["seeds"] = _numbers_by_seed(row, comparison)
        metrics[FOLDERS[row.role]][row.name] = numbers
    metrics["exports"] = {
        name: {form: _numbers(figures.entries()) for form, figures in export.formats.items()}
        for name, export in summary.exports.items()
    }
    return metrics


def _numbers_by_seed(row: ModelRow, comparison: Comparison) -> dict[str, Numbers]:
    """Return the few figures of each seed that people compare."""
    seeds = {}
    for trained in row.by_seed:
        figures: dict[str, object] = {
            "wer": trained.wer.value,
            "valid_wer": trained.valid_wer,
            "fell_back": trained.fell_back,
        }
        gain = comparison.of_seed(trained.seed) if row.role == "student" else None
        if gain is not None:
            figures |= {"gain_wer": gain.gain_wer.value, "gap_closed": gain.gap_closed}
        seeds[str(trained.seed)] = _numbers(figures)
    return seeds


def _numbers(values: Mapping[str, object]) -> Numbers:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
