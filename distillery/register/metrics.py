"""Which final metrics MLflow's runs bear, from the evaluation's figures.

asr/…                        key figures in units that people speak of
test/…                       all of `Rates`, and the speed
gain/…, gap_closed           of students: what distillation gained
valid/…, model/…, latency_ms/…, lm/…, filter/…
onnx/…, onnx-int8/…          of the seed that was exported
teacher/…, cache/…, data/…   of a pipeline's run
"""

from __future__ import annotations

from collections.abc import Mapping

from distillery.data.units import Unit
from distillery.data.workspace import PREPARED, TEACHER_CACHE
from distillery.distill.filtering import FilterReport
from distillery.errors import ManifestError
from distillery.evaluate.comparison import Comparison, SeedGain
from distillery.evaluate.rates import Rates
from distillery.evaluate.summary import Export, Row, SeedRow, Summary
from distillery.language_model.settings import DECODER_FILE, read_tuned
from distillery.prepare.profile import PROFILE_FILE, read_profile
from distillery.register.pipeline_results import CACHE_DIGEST_TAG, PipelineResults
from distillery.teacher_cache.filling.expected import DECODER_FOLDER
from distillery.teacher_cache.filling.report import CACHE_REPORT_FILE, read_report

CACHE_FIELDS = (
    "num_utterances",
    "num_hits",
    "num_teacher_forwards",
    "teacher_seconds",
    "seconds_saved",
    "read_seconds",
    "break_even_epochs",
)
TEST_FIELDS = Rates.model_fields.keys() - {"words"}  # words are the split's, not the model's
SEARCH_FIELDS = (
    "weight",
    "word_score",
    "unknown_score",
    "valid_wer",
    "valid_wer_greedy",
    "bytes",
)
EXPORT_FIELDS = (
    "wer",
    "substitutions",
    "deletions",
    "insertions",
    "max_log_prob_difference",
    "same_texts_fraction",
    "real_time_factor",
    "bytes",
)
Values = Mapping[str, float | None]
"""Metrics by their names; None where there is nothing to log."""


def model_metrics(row: Row, summary: Summary) -> dict[str, float]:
    """Return a model's final metrics under the names that MLflow groups by.

    Args:
        row: a model: means over its seeds, with their spread; or one of its rows by seed.
        summary: the evaluation's.
    """
    latency = {} if row.latency_ms is None else row.latency_ms.entries()
    values = {
        **_named("test", row.entries(TEST_FIELDS)),
        "test/real_time_factor": row.real_time_factor,
        **search_metrics(row, summary),
        "valid/best_wer": row.valid_wer,
        "valid/converged": row.converged,
        "valid/fell_back": row.fell_back,
        "valid/wer_as_trained": row.valid_wer_as_trained,
        "train/epochs": row.num_epochs,
        "train/cpu_seconds": row.cpu_seconds,
        "model/parameters": row.parameters,
        "model/bytes": row.bytes,
        **_named("latency_ms", latency),
        **(_student_metrics(row, summary) if row.role == "student" else {}),
    }
    values = {**key_figures(values, summary.data.unit), **values}
    if summary.data.unit is Unit.PHRASE:
        values |= _named("test", row.wer.complement.entries("phrase_accuracy"))
    return {name: float(value) for name, value in values.items() if value is not None}


def _student_metrics(row: Row, summary: Summary) -> Values:
    """Return what only students have: how they were filtered and exported, and what they gained."""
    comparison, export = summary.comparisons[row.name], summary.exports[row.name]
    was_exported = not isinstance(row, SeedRow) or row.seed == export.seed
    gain = comparison.of_seed(row.seed) if isinstance(row, SeedRow) else comparison
    return {
        **filter_metrics(summary.filters[row.name]),
        **(export_metrics(export) if was_exported else {}),
        **({} if gain is None else gain_metrics(gain)),
    }


def gain_metrics(gain: Comparison | SeedGain) -> Values:
    """Return what distillation gained a student, over its seeds or with one of them."""
    wer = gain.gain_wer
    values: dict[str, float | None] = {"gap_closed": gain.gap_closed}
    if wer is not None:
        values |= {"gain/wer": wer.value, "gain/sd": wer.sd}
        values |= {"gain/low": wer.low, "gain/high": wer.high}
    if isinstance(gain, Comparison):
        with_lm = gain.gain_wer_lm
        values["gain/wer_lm"] = None if with_lm is None else with_lm.value
        values["gap_closed_sd"] = gain.gap_closed_sd
    return values


def key_figures(values: Values, unit: Unit = Unit.WORD) -> Values:
    """Return what one wants to see first, in units that MLflow's charts show whole.

    MLflow shows metrics by name, capitals first, or as they were logged; these are first both ways.

    Args:
        values: of `model_metrics`, rates as fractions.
        unit: what errors are counted in.
    """
    speed = values["test/real_time_factor"]
    return {
        f"asr/{unit.key}_percent": _times(100, values["test/wer"]),
        f"asr/{unit.key}_with_lm_percent": _times(100, values.get("test/wer_lm")),
        **(
            {"asr/phrase_accuracy_percent": 100 * (1 - (values["test/wer"] or 0.0))}
            if unit is Unit.PHRASE
            else {}
        ),
        "asr/gain_points": _times(100, values.get("gain/wer")),
        "asr/gap_closed_percent": _times(100, values.get("gap_closed")),
        "asr/rtfx": 1 / speed if speed else None,
        "asr/size_mb": _times(1e-6, values["model/bytes"]),
    }


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _named(group: str, entries: Mapping[str, object]) -> Values:
    """Return the numbers among a record's entries as metrics of a group."""
    return {
        f"{group}/{name}": value
        for name, value in entries.items()
        if isinstance(value, int | float)
    }


def search_metrics(row: Row, summary: Summary) -> Values:
    """Return what the validation split chose for a model's search; empty where there was none.

    Args:
        row: a model, or one of its rows by seed; of a student's means its best seed counts.
        summary: the evaluation's.
    """
    tuned = summary.search_of(row)
    return {} if tuned is None else _named("lm", tuned.entries(SEARCH_FIELDS))


def filter_metrics(report: FilterReport | None) -> Values:
    """Return what the filter did to a student's training texts; empty where it was off."""
    if report is None:
        return {}
    return {
        "filter/kept": report.num_kept,
        **{f"filter/dropped/{reason}": count for reason, count in report.dropped.items()},
        "filter/hours": report.hours,
        "filter/hours_kept": report.hours_kept,
    }


def export_metrics(export: Export) -> Values:
    """Return what a student is like in the formats that it was exported to, each under its name."""
    metrics: dict[str, float | None] = {}
    for exported_format, figures in export.formats.items():
        entries = figures.entries()
        metrics |= _named(exported_format, {name: entries[name] for name in EXPORT_FIELDS})
    return metrics


def teacher_metrics(results: PipelineResults) -> dict[str, float]:
    """Return the teacher's figures, which the pipeline's run bears.

    With them what the validation split chose for the search that its texts came from, if any.
    """
    values = {
        f"teacher/{name.removeprefix('test/').removeprefix('model/')}": value
        for name, value in model_metrics(results.summary.teacher, results.summary).items()
        if name.startswith(("test/", "model/", "lm/"))
    }
    decoder = results.root / TEACHER_CACHE / DECODER_FOLDER
    if (decoder / DECODER_FILE).exists():
        tuned = read_tuned(decoder)
        values |= {
            "teacher/lm/weight": tuned.settings.weight,
            "teacher/lm/word_score": tuned.settings.word_score,
            "teacher/lm/valid_wer": tuned.valid_wer,
            "teacher/lm/valid_wer_greedy": tuned.valid_wer_greedy,
        }
    return values


def cache_metrics(results: PipelineResults) -> dict[str, float]:
    """Return what the teacher pass that left the present cache cost and saved.

    Empty when the report is of another cache than the one that the students learnt from.
    """
    report = read_report(results.root / CACHE_REPORT_FILE)
    if report is None or report.manifest_sha256 != results.tags[CACHE_DIGEST_TAG]:
        return {}
    values = {name: getattr(report, name) for name in CACHE_FIELDS}
    return {f"cache/{name}": float(value) for name, value in values.items() if value is not None}


def data_leaks(results: PipelineResults) -> tuple[dict[str, float], dict[str, str]]:
    """Return metrics and tags: how much of validation and test stands in the training split, too.

    Both are empty for data that were prepared before this was counted.
    """
    try:
        leaks = read_profile(results.root / PREPARED / PROFILE_FILE).leaks
    except ManifestError:
        leaks = None
    if leaks is None:
        return {}, {}
    metrics = {"data/respelt_speakers": float(leaks.respelt_speakers)}
    for split, count in leaks.copies_dropped.items():
        metrics[f"data/copies_of_{split}_dropped"] = float(count)
    tags = {}
    for split, found in leaks.repeated.items():
        metrics[f"data/{split}_sentences_in_train"] = found.fraction
        told = f"{found.num_in_train} of {found.num_utterances}"
        tags[f"data.{split}_sentences_in_train"] = told
    return metrics, tags
