"""TODO: runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from distillery.credentials import without_credentials
from distillery.data.manifest import SPLITS, PreparedData
from distillery.params.objective import ObjectiveParams
from distillery.params.whole import Params
from distillery.register import descriptions
from distillery.register.figures import cache_metrics, model_metrics, teacher_metrics
from distillery.register.gate.verdict import GATE_FILE, Verdict
from distillery.register.sources import Sources, _output
from distillery.tracking.curve_files import CurveFile
from distillery.tracking.names import flatten, objective_name, pipeline_name, run_name, short_md5
from distillery.tracking.store import DESCRIPTION_TAG, OBJECTIVE_TAG, DataSource, Tracking
from distillery.tracking.versions import (
    Candidate,
)

CONTEXTS = {"train": "training", "valid": "validation", "test": "test"}


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


def log_model_runs(
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


def log_parent_run(
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
