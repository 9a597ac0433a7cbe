"""What a run leaves in MLflow: a parent, a run per student or control and seed, versions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd

from distillery.credentials import without_credentials
from distillery.data.manifest import PreparedData
from distillery.files import write_json
from distillery.register import descriptions
from distillery.register.aliases import read_aliases
from distillery.register.drift import drift_from_champion, log_drift
from distillery.register.gate.promotion import Entry, Terms, decide
from distillery.register.gate.verdict import Verdict
from distillery.register.runs import _datasets, log_model_runs, log_parent_run
from distillery.register.sources import Sources, _output
from distillery.serve.served import choose_format
from distillery.tracking.store import Tracking
from distillery.tracking.versions import (
    Candidate,
    best_candidate,
    register_version,
)

OPEN_RUN_FILE = "scratch/open_run.json"
MEAN_WER_TAG, WER_SD_TAG = "test.wer_mean", "test.wer_sd"

logger = logging.getLogger(__name__)


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
        runs = log_model_runs(tracking, parent, sources, datasets, predictions)
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
        log_parent_run(tracking, parent, sources, datasets, best, verdict, result)
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
        exported = sources.summary["exports"][row["name"]]["formats"]
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
                    float(best["wer"]),
                    {name: float(figures["wer"]) for name, figures in exported.items()},
                    sources.root / "models/exported" / row["name"],
                    settings.max_format_loss,
                ),
            )
        )
    return candidates
