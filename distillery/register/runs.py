"""The runs in MLflow: the pipeline's, and below it one for each student and control and seed.

Names and curves are those that are used while a stage still runs, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from distillery.credentials import without_credentials
from distillery.data.manifest import SPLITS, PreparedData
from distillery.data.workspace import CURVES, EVALUATION, PREPARED, TEACHER
from distillery.evaluate.summary import SeedRow
from distillery.params.objective import ObjectiveParams
from distillery.params.whole import Params
from distillery.register import descriptions
from distillery.register.gate.verdict import GATE_FILE, Verdict
from distillery.register.metrics import (
    cache_metrics,
    data_leaks,
    model_metrics,
    teacher_metrics,
)
from distillery.register.pipeline_results import PipelineResults
from distillery.tracking.curve_files import CurveFile
from distillery.tracking.names import flatten, objective_name, pipeline_name, run_name, short_md5
from distillery.tracking.store import (
    CONVERGED_TAG,
    DESCRIPTION_TAG,
    FELL_BACK_TAG,
    OBJECTIVE_TAG,
    UNIT_TAG,
    DataSource,
    Tracking,
)
from distillery.tracking.versions import Candidate

CONTEXTS = {"train": "training", "valid": "validation", "test": "test"}
"""What MLflow calls the splits."""


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
    return CurveFile(root / f"{CURVES}/{model}.jsonl", "teacher/" if model == "teacher" else "")


def model_params(params: Params, row: SeedRow, made_from: Mapping[str, object]) -> dict[str, str]:
    """Return the settings that concern one run of a model, under names that all share.

    Args:
        params: the whole of params.yaml.
        row: the model's.
        made_from: what else tells runs apart, of `origin`.
    """
    distill, name = params.distill.for_seed(row.seed), row.name
    student, is_student = distill.students[name], row.role == "student"
    decoder = params.register.decoder
    objective = distill.objective_of(name) if is_student else ObjectiveParams(teacher_share=0.0)
    return flatten(
        {
            "student": name,
            "role": row.role,
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
                if params.language_model.for_teacher
                else {}
            ),
            **({"decoder": decoder.model_dump()} if decoder is not None else {}),
            **made_from,
        }
    )


def origin(results: PipelineResults) -> dict[str, dict[str, str]]:
    """Return which data and teacher a run had, as settings, by which MLflow can group runs."""
    return {
        "data": {
            "corpus": results.params.prepare.title,
            "md5": short_md5(results.data_md5),
        },
        "teacher": {"md5": short_md5(results.md5_of(TEACHER))},
    }


def log_model_runs(
    tracking: Tracking,
    parent: str,
    results: PipelineResults,
    data: Sequence[DataSource],
    predictions: pd.DataFrame,
) -> dict[str, str]:
    """Log every student and control under every seed, and return their runs by model.

    Args:
        tracking: the connection to MLflow.
        parent: id of the pipeline's run.
        results: the pipeline run's.
        data: the data sets that it used.
        predictions: of all models.
    """
    runs = {}
    for row in results.summary.trained:
        name = child_name(results.params, row.model, results.data_md5)
        runs[row.model] = tracking.child(parent, row.model, name)
        _log_model_run(tracking, runs[row.model], row, results, data, predictions)
    return runs


def _log_model_run(
    tracking: Tracking,
    run: str,
    row: SeedRow,
    results: PipelineResults,
    data: Sequence[DataSource],
    predictions: pd.DataFrame,
) -> None:
    tracking.log_values(
        run,
        params=model_params(results.params, row, origin(results)),
        metrics=model_metrics(row, results.summary),
        tags={
            **results.tags,
            "dvc.md5": results.md5_of(f"models/{row.model}"),
            UNIT_TAG: results.summary.data.unit.value,
            OBJECTIVE_TAG: _objective_of(results.params, row.model),
            **_yes_or_no(CONVERGED_TAG, row.converged),
            **_yes_or_no(FELL_BACK_TAG, row.fell_back),
            "mlflow.runName": child_name(results.params, row.model, results.data_md5),
            DESCRIPTION_TAG: descriptions.of_model(row, results),
        },
    )
    points, _ = curve_of(results.root, row.model).read()
    tracking.log_points(run, points)
    tracking.log_data(run, data)
    model = row.model.rpartition("/")[0]
    mine = predictions[(predictions["model"] == model) & (predictions["seed"] == row.seed)]
    tracking.log_table(run, mine.drop(columns=["model", "seed"]), "predictions.json")


def _yes_or_no(tag: str, share: float | None) -> dict[str, str]:
    """Return a tag of a single model; none where nothing is known."""
    return {} if share is None else {tag: "yes" if share else "no"}


def log_parent_run(
    tracking: Tracking,
    run: str,
    results: PipelineResults,
    data: Sequence[DataSource],
    best: Candidate,
    verdict: Verdict,
    outcome: str,
) -> None:
    """Log what concerns the pipeline as a whole, with the figures of its best student.

    Args:
        tracking: the connection to MLflow.
        run: id of the pipeline's run.
        results: the pipeline run's.
        data: the data sets that it used.
        best: the student that was put up for promotion.
        verdict: the gate's on it.
        outcome: what the run came to, in a sentence.
    """
    params, summary = results.params, results.summary
    settings = {**flatten(params.model_dump()), **flatten(origin(results))}
    if uri := params.register.tracking_uri:
        settings["register.tracking_uri"] = without_credentials(uri)
    leaks, told = data_leaks(results)
    how = f"{best.name}-{_objective_of(params, f'{best.role}s/{best.name}/seed-{best.seed}')}"
    registered = {
        "registered.role": best.role,
        "registered.seed": str(best.seed),
        "registered.model": params.register.model_name,
        "registered.version": verdict.version,
        "registered.alias": verdict.alias,
        "registered.reason": verdict.reason,
    }
    tracking.log_values(
        run,
        params=settings,
        metrics={
            **model_metrics(summary.model_of(best.role, best.name), summary),
            **teacher_metrics(results),
            **verdict.metrics,
            "registered/wer": best.test_wer,
            "registered/valid_wer": best.valid_wer,
            **cache_metrics(results),
            **leaks,
        },
        tags={
            **results.tags,
            **told,
            "student": best.name,
            UNIT_TAG: summary.data.unit.value,
            **registered,
            **verdict.tags,
            "mlflow.runName": pipeline_name(how, params.prepare.title, results.data_md5),
            DESCRIPTION_TAG: descriptions.of_pipeline(outcome, verdict, results),
        },
    )
    tracking.log_points(run, curve_of(results.root, "teacher").read()[0])
    tracking.log_data(run, data)
    _log_files(tracking, run, results)


def _log_files(tracking: Tracking, run: str, results: PipelineResults) -> None:
    for path in (*results.artifacts, results.root / GATE_FILE):
        tracking.client.log_artifact(run, str(path))
    tracking.client.log_artifacts(run, str(results.root / EVALUATION), "evaluation")


def data_sources(data: PreparedData, results: PipelineResults) -> list[DataSource]:
    """Return the splits of the prepared data as MLflow shows them."""
    return [
        DataSource(
            f"{results.params.prepare.title}-{split}",
            results.data_md5,
            CONTEXTS[split],
            PREPARED,
            {
                "num_rows": len(rows),
                "seconds": float(rows["duration_seconds"].sum()),
                "speakers": int(rows["speaker"].nunique()),
            },
        )
        for split in SPLITS
        for rows in [data.split(split)]
    ]
