"""TODO: figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillery.language_model.settings import DECODER_FILE, read_tuned
from distillery.register.sources import Sources
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


WER_FIELDS = ("wer", "wer_sd", "wer_low", "wer_high", "cer", "cer_sd", "cer_low", "cer_high")
TUNED_FIELDS = ("weight", "word_score", "valid_wer", "valid_wer_greedy")
LM_FIELDS = ("wer_lm", "wer_lm_sd", "wer_lm_low", "wer_lm_high")
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


TEST_FIELDS = ("substitutions", "deletions", "insertions", "empty_fraction")


def model_metrics(row: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, float]:
    """Return final metrics under the names that MLflow groups by.

    Args:
        row: a model: means over its seeds, with their spread; or one of its rows by seed.
        summary: what summary.json holds.
    """
    values = {
        **{f"test/{name}": row[name] for name in (*WER_FIELDS, "real_time_factor")},
        **{f"test/{name}": row[name] for name in TEST_FIELDS},
        **{f"test/{name}": row.get(name) for name in LM_FIELDS},
        **language_model_metrics(row, summary),
        "valid/best_wer": row["valid_wer"],
        "model/parameters": row["parameters"],
        "model/bytes": row["bytes"],
        **{f"latency_ms/{name}": value for name, value in row.get("latency_ms", {}).items()},
    }
    if row["role"] == "student":
        figures = summary["comparisons"][row["name"]]
        values |= filter_metrics(summary["filters"][row["name"]])
        export = summary["exports"][row["name"]]
        if row.get("seed", export["seed"]) == export["seed"]:
            values |= export_metrics(export)
        if "seed" in row:
            of_seed = [item for item in figures["by_seed"] if item["seed"] == row["seed"]]
            figures = of_seed[0] if of_seed else {}
        values |= {
            "gain/wer": figures.get("gain_wer"),
            "gain/sd": figures.get("gain_wer_sd"),
            "gain/low": figures.get("gain_wer_low"),
            "gain/high": figures.get("gain_wer_high"),
            "gain/wer_lm": figures.get("gain_wer_lm"),
            "gap_closed": figures.get("gap_closed"),
            "gap_closed_sd": figures.get("gap_closed_sd"),
        }
    values = {**key_figures(values), **values}
    return {name: float(value) for name, value in values.items() if value is not None}


def key_figures(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return what one wants to see first, in units that MLflow's charts show whole.

    MLflow shows metrics by name, capitals first, or as they were logged; these are first both ways.

    Args:
        values: of `model_metrics`, rates as fractions.
    """
    speed = values["test/real_time_factor"]
    return {
        "asr/WER_percent": _times(100, values["test/wer"]),
        "asr/WER_with_lm_percent": _times(100, values["test/wer_lm"]),
        "asr/gain_points": _times(100, values.get("gain/wer")),
        "asr/gap_closed_percent": _times(100, values.get("gap_closed")),
        "asr/rtfx": 1 / speed if speed else None,
        "asr/size_mb": _times(1e-6, values["model/bytes"]),
    }


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def language_model_metrics(row: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, float]:
    """Return what the validation split chose for a model's search; empty where there was none.

    Args:
        row: a model, or one of its rows by seed; of a student's means its best seed counts.
        summary: what summary.json holds.
    """
    model = f"{row['model']}/seed-{row['best_seed']}" if "best_seed" in row else row["model"]
    tuned = summary.get("language_models", {}).get(model, {})
    return {f"lm/{name}": tuned[name] for name in TUNED_FIELDS if name in tuned}


def filter_metrics(report: Mapping[str, Any] | None) -> dict[str, float]:
    """Return what the filter did to a student's training texts; empty where it was off.

    Args:
        report: what filter.json holds.
    """
    if report is None:
        return {}
    return {
        "filter/kept": report["num_kept"],
        **{f"filter/dropped/{reason}": count for reason, count in report["dropped"].items()},
        "filter/hours": report["hours"],
        "filter/hours_kept": report["hours_kept"],
    }


def export_metrics(export: Mapping[str, Any]) -> dict[str, float]:
    """Return what the exported forms of a student are like, each under its format.

    Args:
        export: the student's part of `exports` in summary.json.
    """
    return {
        f"{name}/{field}": figures[field]
        for name, figures in export["formats"].items()
        for field in EXPORT_FIELDS
    }


def teacher_metrics(sources: Sources) -> dict[str, float]:
    """Return the teacher's figures, which the pipeline's run bears.

    With them what the validation split chose for the search that its texts came from, if any.
    """
    (row,) = (item for item in sources.summary["models"] if item["role"] == "teacher")
    values = {
        f"teacher/{name.removeprefix('test/').removeprefix('model/')}": value
        for name, value in model_metrics(row, sources.summary).items()
        if name.startswith(("test/", "model/", "lm/"))
    }
    decoder = sources.root / "data/teacher_cache" / DECODER_FOLDER
    if (decoder / DECODER_FILE).exists():
        tuned = read_tuned(decoder)
        values |= {
            "teacher/lm/weight": tuned.settings.weight,
            "teacher/lm/word_score": tuned.settings.word_score,
            "teacher/lm/valid_wer": tuned.valid_wer,
            "teacher/lm/valid_wer_greedy": tuned.valid_wer_greedy,
        }
    return values


def cache_metrics(sources: Sources) -> dict[str, float]:
    """Return what the teacher pass that left the present cache cost and saved.

    Empty when the report is of another cache than the one that the students learnt from.
    """
    report = read_report(sources.root / CACHE_REPORT_FILE)
    if report is None or report.manifest_sha256 != sources.tags["cache.manifest_sha256"]:
        return {}
    values = {name: getattr(report, name) for name in CACHE_FIELDS}
    return {f"cache/{name}": float(value) for name, value in values.items() if value is not None}
