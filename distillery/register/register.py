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

from distillery.credentials import without_credentials
from distillery.data.manifest import SPLITS, PreparedData
from distillery.errors import StageError
from distillery.files import write_json
from distillery.language_model.settings import DECODER_FILE, read_tuned
from distillery.params.whole import ObjectiveParams, Params
from distillery.register import descriptions
from distillery.register.aliases import read_aliases
from distillery.register.drift import drift_from_champion, log_drift
from distillery.register.gate.promotion import Entry, Terms, decide
from distillery.register.gate.verdict import GATE_FILE, Verdict
from distillery.serve.served import choose_format
from distillery.teacher_cache.filling.expected import DECODER_FOLDER
from distillery.teacher_cache.filling.fill import CACHE_REPORT_FILE, read_report
from distillery.tracking.store import (
    DESCRIPTION_TAG,
    OBJECTIVE_TAG,
    CurveFile,
    DataSource,
    Tracking,
    flatten,
    objective_name,
    pipeline_name,
    run_name,
    short_md5,
)
from distillery.tracking.versions import (
    Candidate,
    best_candidate,
    register_version,
)

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


def parent_name(params: Params, data_md5: str = "") -> str:
    """Return the name of a pipeline run that has no result yet, `01-31 09:30 on an4@1a2b3c`."""
    began = time.strftime("%m-%d %H:%M", time.gmtime())
    return pipeline_name(began, params.prepare.title, data_md5)


def child_name(params: Params, model: str, data_md5: str = "") -> str:
    """Return the run name of a model such as `students/conv/seed-0`."""
    _, name, seed = model.split("/")
    number = int(seed.removeprefix("seed-")) if len(params.distill.seeds) > 1 else None
    return run_name(name, _objective_of(params, model), data_md5, number)


def _objective_of(params: Params, model: str) -> str:
    role, name, _ = model.split("/")
    return objective_name(params.distill.objective_of(name) if role == "students" else None)


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
        What reports/registered.json says: model, version, alias, reason, the champion's version or
        null, run ids, tracking URI, DVC's hash of the evaluation.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    settings = sources.params.register
    with tracking.explained():
        data = PreparedData.open(sources.root / "data/prepared")
        predictions = pd.read_parquet(sources.root / "reports/evaluation/predictions.parquet")
        datasets = _datasets(data, sources)
        runs = _log_model_runs(tracking, parent, sources, datasets, predictions)
        candidates = _candidates(sources, runs, test_digest(data))
        versions = {
            item.name: register_version(tracking, settings.model_name, item, settings.serve_limits)
            for item in candidates
        }
        drift = drift_from_champion(
            tracking, settings.model_name, sources.root, own=versions.values()
        )
        # Before the gate: when this is repeated, a version may be champion that was not then.
        log_drift(tracking, parent, runs.values(), drift, sources.root)
        best = best_candidate(candidates)
        verdict = _ask_the_gate(tracking, sources, best, versions[best.name], data, predictions)
        result = descriptions.outcome(
            sources.summary, best.name, best.seed, settings.model_name, verdict
        )
        _log_parent_run(tracking, parent, sources, datasets, best, verdict, result)
        tracking.describe_experiment(
            descriptions.of_experiment(
                tracking.experiment_id, result, verdict, sources.summary, sources.tags
            )
        )
        champion = read_aliases(tracking, settings.model_name).champion
        tracking.end_run(parent)
    registered = {
        "name": settings.model_name,
        "version": verdict.version,
        "alias": verdict.alias,
        "reason": verdict.reason,
        "champion": champion,
        "student": best.name,
        "seed": best.seed,
        "versions": versions,
        "runs": {"parent": parent, **runs},
        "experiment_id": tracking.experiment_id,
        "tracking_uri": without_credentials(tracking.uri),
        "data_warnings": drift.warnings,
        "evaluation_md5": _output(sources, "reports/evaluation"),
    }
    write_json(sources.root / "reports/registered.json", registered)
    return registered


def _ask_the_gate(
    tracking: Tracking,
    sources: Sources,
    best: Candidate,
    version: str,
    data: PreparedData,
    predictions: pd.DataFrame,
) -> Verdict:
    """Return what the gate says of the best student, by now a version; it moves the aliases."""
    params = sources.params
    name = params.register.model_name
    entry = Entry(name, version, best.name, best.seed, best.folder, best.description)
    exported = pd.read_parquet(sources.root / "reports/evaluation/exported.parquet")
    terms = Terms(data, predictions, exported, params.evaluate, params.register.gate)
    return decide(tracking, entry, terms)


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
    if report is None or report.get("manifest_sha256") != sources.tags["cache.manifest_sha256"]:
        return {}
    values = {name: report.get(name) for name in CACHE_FIELDS}
    return {f"cache/{name}": float(value) for name, value in values.items() if value is not None}


def model_params(
    params: Params, row: Mapping[str, Any], made_from: Mapping[str, Any]
) -> dict[str, str]:
    """Return the settings that concern one run of a model, under names that all share.

    Args:
        params: the whole of params.yaml.
        row: the model's, by seed.
        made_from: what else tells runs apart, of `origin`.
    """
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
            "objective": {
                "name": objective_name(objective if is_student else None),
                **(objective.model_dump() if is_student else {"teacher_share": 0.0}),
            },
            "features": distill.features_of(name).model_dump(),
            "training": distill.training.model_dump(),
            "prepare": {"corpus": params.prepare.corpus, "source": params.prepare.source},
            **(
                {"language_model": params.language_model.model_dump()}
                if params.language_model.is_used
                else {}
            ),
            **made_from,
        }
    )


def origin(sources: Sources) -> dict[str, Any]:
    """Return which data and teacher a run had, as settings, by which MLflow can group runs."""
    return {
        "data": {
            "corpus": sources.params.prepare.title,
            "md5": short_md5(_output(sources, "data/prepared")),
        },
        "teacher": {"md5": short_md5(_output(sources, "models/teacher"))},
    }


def _log_model_runs(
    tracking: Tracking,
    parent: str,
    sources: Sources,
    datasets: Sequence[DataSource],
    predictions: pd.DataFrame,
) -> dict[str, str]:
    """Log every student and control under every seed, and return their runs by model."""
    runs = {}
    data_md5 = _output(sources, "data/prepared")
    for row in sources.summary["models"]:
        for trained in row.get("by_seed", []):
            model = trained["model"]
            name = child_name(sources.params, model, data_md5)
            runs[model] = tracking.child(parent, model, name)
            _log_model_run(tracking, runs[model], trained, sources, datasets, predictions)
    return runs


def _log_model_run(
    tracking: Tracking,
    run: str,
    row: Mapping[str, Any],
    sources: Sources,
    datasets: Sequence[DataSource],
    predictions: pd.DataFrame,
) -> None:
    md5 = _output(sources, f"models/{row['model']}")
    data_md5 = _output(sources, "data/prepared")
    tracking.log_values(
        run,
        params=model_params(sources.params, row, origin(sources)),
        metrics=model_metrics(row, sources.summary),
        tags={
            **sources.tags,
            "dvc.md5": md5,
            OBJECTIVE_TAG: _objective_of(sources.params, row["model"]),
            "mlflow.runName": child_name(sources.params, row["model"], data_md5),
            DESCRIPTION_TAG: descriptions.of_model(row, sources.summary, sources.tags),
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
    result: str,
) -> None:
    rows = {row["model"]: row for row in sources.summary["models"]}
    settings = {**flatten(sources.params.model_dump()), **flatten(origin(sources))}
    if uri := sources.params.register.tracking_uri:
        settings["register.tracking_uri"] = without_credentials(uri)
    name = sources.params.register.model_name
    objective = _objective_of(sources.params, f"students/{best.name}/seed-{best.seed}")
    tracking.log_values(
        run,
        params=settings,
        metrics={
            **model_metrics(rows[f"students/{best.name}"], sources.summary),
            **teacher_metrics(sources),
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
            "mlflow.runName": pipeline_name(
                f"{best.name}-{objective}",
                sources.params.prepare.title,
                _output(sources, "data/prepared"),
            ),
            DESCRIPTION_TAG: descriptions.of_pipeline(
                result, sources.summary, verdict, sources.tags
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
    return [
        DataSource(
            f"{sources.params.prepare.title}-{split}",
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
                description=descriptions.of_version(title, sources.summary, sources.tags),
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
