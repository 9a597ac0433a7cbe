"""What a run leaves in MLflow: a parent, a run per student or control and seed, versions."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from distillery.caching import CACHE_REPORT_FILE, read_report
from distillery.credentials import without_credentials
from distillery.drift import drift_from_champion, log_drift
from distillery.errors import StageError
from distillery.files import write_json
from distillery.manifest import SPLITS, PreparedData
from distillery.params import ObjectiveParams, Params
from distillery.promotion import Entry, Terms, decide
from distillery.registry import (
    Candidate,
    best_candidate,
    register_version,
)
from distillery.results import markdown_table
from distillery.served import choose_format
from distillery.tracking import (
    CurveFile,
    DataSource,
    Tracking,
    flatten,
    run_name,
)
from distillery.verdict import GATE_FILE, Verdict
from distillery.verdict import markdown as verdict_in_markdown

DESCRIPTION_TAG = "mlflow.note.content"
OPEN_RUN_FILE = "scratch/open_run.json"
MEAN_WER_TAG, WER_SD_TAG = "test.wer_mean", "test.wer_sd"
CONTEXTS = {"train": "training", "valid": "validation", "test": "test"}
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

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where a run's material lies, and what it was made from."""

    root: Path
    params: Params
    summary: Mapping[str, Any]
    """What reports/evaluation/summary.json holds."""
    outputs: Mapping[str, str]
    """MD5 of each versioned output by its path."""
    tags: Mapping[str, str]
    """Lineage that every run bears."""
    artifacts: Sequence[Path]
    """Single files that the parent run keeps."""


def parent_name(params: Params) -> str:
    """Return the name of a pipeline run, `distillation-an4-20260131-0930`, in UTC."""
    return f"distillation-{params.prepare.corpus}-{time.strftime('%Y%m%d-%H%M', time.gmtime())}"


def child_name(params: Params, model: str, md5: str = "") -> str:
    """Return the run name of a model such as `students/conv/seed-0`."""
    role, name, seed = model.split("/")
    objective = params.distill.objective_of(name) if role == "students" else None
    return run_name(f"{name}-{seed.replace('-', '')}", objective, md5)


def curve_of(root: Path, model: str) -> CurveFile:
    """Return the learning curves of a model; the teacher's bear a prefix, for it has no own run."""
    return CurveFile(root / f"curves/{model}.jsonl", "teacher/" if model == "teacher" else "")


def register_results(tracking: Tracking, parent: str, sources: Sources) -> dict[str, Any]:
    """Log everything that a pipeline run made, register its students, and let the gate choose.

    Safe to repeat with the same parent: equal values change nothing, and an equal student is not
    registered twice. Of a student's seeds the one of the lowest validation WER is registered: the
    test split chooses nothing.

    Args:
        tracking: the connection to MLflow.
        parent: id of the pipeline's run.
        sources: what is to be logged.

    Returns:
        What reports/registered.json says: model, version, alias, reason, run ids, tracking URI,
        DVC's hash of the evaluation.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    with tracking.explained():
        data = PreparedData.open(sources.root / "data/prepared")
        predictions = pd.read_parquet(sources.root / "reports/evaluation/predictions.parquet")
        datasets = _datasets(data, sources)
        runs = {"parent": parent}
        for row in sources.summary["models"]:
            for trained in row.get("by_seed", []):
                model = trained["model"]
                runs[model] = tracking.child(parent, model, child_name(sources.params, model))
                _log_model_run(tracking, runs[model], trained, sources, datasets, predictions)
        drift = drift_from_champion(tracking, sources.params.register.model_name, sources.root)
        children = [run for model, run in runs.items() if model != "parent"]
        log_drift(tracking, parent, children, drift, sources.root)
        candidates = _candidates(sources, runs, test_digest(data))
        versions = {
            item.name: register_version(
                tracking,
                sources.params.register.model_name,
                item,
                sources.params.register.serve_limits,
            )
            for item in candidates
        }
        best = best_candidate(candidates)
        verdict = decide(
            tracking,
            Entry(
                sources.params.register.model_name,
                versions[best.name],
                best.name,
                best.seed,
                best.folder,
                best.description,
            ),
            Terms(
                data,
                predictions,
                pd.read_parquet(sources.root / "reports/evaluation/exported.parquet"),
                sources.params.evaluate,
                sources.params.register.gate,
            ),
        )
        _log_parent_run(tracking, parent, sources, datasets, best, verdict)
        tracking.end_run(parent)
    registered = {
        "name": sources.params.register.model_name,
        "version": verdict.version,
        "alias": verdict.alias,
        "reason": verdict.reason,
        "student": best.name,
        "seed": best.seed,
        "versions": versions,
        "runs": runs,
        "experiment_id": tracking.experiment_id,
        "tracking_uri": without_credentials(tracking.uri),
        "data_warnings": drift.warnings,
        "evaluation_md5": _output(sources, "reports/evaluation"),
    }
    write_json(sources.root / "reports/registered.json", registered)
    return registered


def test_digest(data: PreparedData) -> str:
    """Return the SHA-256 of the test split: what is heard and what should be written."""
    rows = data.split("test")
    digest = hashlib.sha256()
    for key, text in sorted(zip(rows["audio_key"], rows["text"].fillna(""), strict=True)):
        digest.update(f"{key} {text}\n".encode())
    return digest.hexdigest()


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
    return {name: float(value) for name, value in values.items() if value is not None}


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


def cache_metrics(sources: Sources) -> dict[str, float]:
    """Return what the teacher pass that left the present cache cost and saved.

    Empty when the report is of another cache than the one that the students learnt from.
    """
    report = read_report(sources.root / CACHE_REPORT_FILE)
    if report is None or report.get("manifest_sha256") != sources.tags["cache.manifest_sha256"]:
        return {}
    values = {name: report.get(name) for name in CACHE_FIELDS}
    return {f"cache/{name}": float(value) for name, value in values.items() if value is not None}


def model_params(params: Params, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that concern one run of a model, under names that all share."""
    distill, name = params.distill.for_seed(row["seed"]), row["name"]
    student, is_student = distill.students[name], row["role"] == "student"
    objective = distill.objective_of(name) if is_student else ObjectiveParams(teacher_share=0.0)
    return flatten(
        {
            "student": name,
            "role": row["role"],
            "architecture": student.architecture.model_dump(),
            "init": (student.init if is_student else student.registered_init) or "random",
            "generations": distill.generations if is_student else 1,
            "objective": objective.model_dump() if is_student else {"teacher_share": 0.0},
            "features": distill.features_of(name).model_dump(),
            "training": distill.training.model_dump(),
            "prepare": {"corpus": params.prepare.corpus, "source": params.prepare.source},
        }
    )


def _log_model_run(
    tracking: Tracking,
    run: str,
    row: Mapping[str, Any],
    sources: Sources,
    datasets: Sequence[DataSource],
    predictions: pd.DataFrame,
) -> None:
    md5 = _output(sources, f"models/{row['model']}")
    table = markdown_table(sources.summary)
    tracking.log_values(
        run,
        params=model_params(sources.params, row),
        metrics=model_metrics(row, sources.summary),
        tags={
            **sources.tags,
            "dvc.md5": md5,
            "mlflow.runName": child_name(sources.params, row["model"], md5),
            DESCRIPTION_TAG: f"{table}\n\n{_lineage_text(sources.tags)}",
        },
    )
    points, _ = curve_of(sources.root, row["model"]).read()
    tracking.log_points(run, points)
    tracking.log_data(run, datasets)
    model = row["model"].rpartition("/")[0]
    mine = predictions[(predictions["model"] == model) & (predictions["seed"] == row["seed"])]
    tracking.log_table(run, mine.drop(columns=["model", "seed"]), "predictions.json")


def _log_parent_run(
    tracking: Tracking,
    run: str,
    sources: Sources,
    datasets: Sequence[DataSource],
    best: Candidate,
    verdict: Verdict,
) -> None:
    rows = {row["model"]: row for row in sources.summary["models"]}
    teacher = {
        name.replace("test/", "teacher/").replace("model/", "teacher/"): value
        for name, value in model_metrics(rows["teacher"], sources.summary).items()
    }
    settings = flatten(sources.params.model_dump())
    if uri := sources.params.register.tracking_uri:
        settings["register.tracking_uri"] = without_credentials(uri)
    name = sources.params.register.model_name
    result = (
        f"Student `{best.name}` from seed {best.seed} is version {verdict.version} of `{name}`: "
        f"{verdict.alias}"
    )
    tracking.log_values(
        run,
        params=settings,
        metrics={
            **teacher,
            **model_metrics(rows[f"students/{best.name}"], sources.summary),
            **verdict.metrics,
            "registered/wer": best.test_wer,
            "registered/valid_wer": best.valid_wer,
            **cache_metrics(sources),
        },
        tags={
            **sources.tags,
            "student": best.name,
            "registered.seed": str(best.seed),
            "registered.model": name,
            "registered.version": verdict.version,
            "registered.alias": verdict.alias,
            "registered.reason": verdict.reason,
            **verdict.tags,
            DESCRIPTION_TAG: (
                f"{markdown_table(sources.summary)}\n\n{result}.\n\n"
                f"{verdict_in_markdown(verdict)}\n"
                f"{_lineage_text(sources.tags)}"
            ),
        },
    )
    points, _ = curve_of(sources.root, "teacher").read()
    tracking.log_points(run, points)
    tracking.log_data(run, datasets)
    for path in (*sources.artifacts, sources.root / GATE_FILE):
        tracking.client.log_artifact(run, str(path))
    tracking.client.log_artifacts(run, str(sources.root / "reports/evaluation"), "evaluation")


def _datasets(data: PreparedData, sources: Sources) -> list[DataSource]:
    md5 = _output(sources, "data/prepared")
    corpus = sources.params.prepare.corpus
    return [
        DataSource(
            f"{corpus}-{split}",
            md5,
            CONTEXTS[split],
            "data/prepared",
            {
                "num_rows": len(rows),
                "seconds": float(rows["duration_seconds"].sum()),
                "speakers": int(rows["speaker"].nunique()),
            },
        )
        for split in SPLITS
        for rows in [data.split(split)]
    ]


def _candidates(sources: Sources, runs: Mapping[str, str], digest_of_test: str) -> list[Candidate]:
    """Return of each student the seed of the lowest validation WER."""
    table, lineage = markdown_table(sources.summary), _lineage_text(sources.tags)
    candidates = []
    settings = sources.params.register
    for row in sources.summary["models"]:
        if row["role"] != "student":
            continue
        (best,) = (run for run in row["by_seed"] if run["seed"] == row["best_seed"])
        title = f"Student `{row['name']}` from seed {best['seed']}"
        tags = dict(sources.tags)
        if len(row["by_seed"]) > 1:
            title += f", the best on the validation split of {len(row['by_seed'])} seeds"
            tags |= {MEAN_WER_TAG: repr(row["wer"]), WER_SD_TAG: repr(row["wer_sd"])}
        candidates.append(
            Candidate(
                name=row["name"],
                seed=int(best["seed"]),
                folder=sources.root / "models" / best["model"],
                md5=_output(sources, f"models/{best['model']}"),
                run=runs[best["model"]],
                description=f"{title}.\n\n{table}\n\n{lineage}",
                tags=tags,
                test_digest=digest_of_test,
                test_wer=float(best["wer"]),
                valid_wer=float(best["valid_wer"]),
                num_parameters=int(best["parameters"]),
                served=choose_format(
                    settings.serve_format,
                    best,
                    sources.summary["exports"][row["name"]]["formats"],
                    sources.root / "models/exported" / row["name"],
                    settings.max_format_loss,
                ),
            )
        )
    return candidates


def _output(sources: Sources, path: str) -> str:
    if path not in sources.outputs:
        raise StageError(f"dvc.lock: names no {path}; run make run first")
    return sources.outputs[path]


def _lineage_text(tags: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: `{value}`" for name, value in sorted(tags.items()))
