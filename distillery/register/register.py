"""What a run leaves in MLflow: a parent, a run per student or control and seed, versions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from distillery.credentials import without_credentials
from distillery.data.manifest import PreparedData
from distillery.data.workspace import EVALUATION, PREPARED
from distillery.errors import ModelError, TrackingError
from distillery.evaluate.summary import EXPORTED_FILE, PREDICTIONS_FILE, ModelRow, SeedRow
from distillery.register import descriptions
from distillery.register.aliases import check_version, read_aliases
from distillery.register.drift import Drift, drift_from_champion, log_drift
from distillery.register.gate.promotion import Entry, Terms, decide
from distillery.register.gate.verdict import Verdict
from distillery.register.pipeline_results import PipelineResults
from distillery.register.registered import PARENT, Registered
from distillery.register.runs import data_sources, log_model_runs, log_parent_run
from distillery.serve.served import Served, choose_format
from distillery.tracking.fetched import REGISTERED, read_source
from distillery.tracking.store import UNIT_TAG, Tracking
from distillery.tracking.trained_on import pack_keys, read_keys
from distillery.tracking.versions import Candidate, best_candidate, register_version

OPEN_RUN_FILE = "scratch/open_run.json"
MEAN_WER_TAG, WER_SD_TAG = "test.wer_mean", "test.wer_sd"

logger = logging.getLogger(__name__)


def register_results(tracking: Tracking, parent: str, results: PipelineResults) -> Registered:
    """Log everything that a pipeline run made, register its students, and let the gate choose.

    Safe to repeat with the same parent: equal values change nothing, and an equal student is not
    registered twice. Of a student's seeds the one of the lowest validation WER is registered: the
    test split chooses nothing.

    Args:
        tracking: the connection to MLflow.
        parent: id of the pipeline's run.
        results: what is to be logged.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    settings = results.params.register
    with tracking.explained():
        data = PreparedData.open(results.root / PREPARED)
        predictions = pd.read_parquet(results.root / EVALUATION / PREDICTIONS_FILE)
        sources = data_sources(data, results)
        runs = log_model_runs(tracking, parent, results, sources, predictions)
        candidates = [
            replace(item, trained_on=_trained_on(tracking, results, item.name, data))
            for item in _candidates(results, runs, test_digest(data))
        ]
        versions = {
            item.name: register_version(tracking, settings.model_name, item, settings.serve_limits)
            for item in candidates
        }
        drift = _log_drift(tracking, parent, results, runs, versions)
        best = best_candidate(candidates)
        verdict = _ask_the_gate(tracking, results, best, versions[best.name], data, predictions)
        outcome = descriptions.outcome(results, best.name, best.seed, verdict)
        log_parent_run(tracking, parent, results, sources, best, verdict, outcome)
        tracking.describe_experiment(
            descriptions.of_experiment(tracking.experiment_id, outcome, verdict, results)
        )
        champion = read_aliases(tracking, settings.model_name).champion
        tracking.end_run(parent)
    registered = Registered(
        name=settings.model_name,
        version=verdict.version,
        alias=verdict.alias,
        reason=verdict.reason,
        champion=champion,
        student=best.name,
        seed=best.seed,
        versions=versions,
        runs={PARENT: parent, **runs},
        experiment_id=tracking.experiment_id,
        tracking_uri=without_credentials(tracking.uri),
        data_warnings=tuple(drift.warnings),
        evaluation_md5=results.md5_of(EVALUATION),
    )
    registered.write(results.root)
    return registered


def _log_drift(
    tracking: Tracking,
    parent: str,
    results: PipelineResults,
    runs: Mapping[str, str],
    versions: Mapping[str, str],
) -> Drift:
    """Return how the data differ from the champion's, once MLflow knows.

    Before the gate: when this is repeated, a version may be champion that was not then.
    """
    name = results.params.register.model_name
    drift = drift_from_champion(tracking, name, results.root, own=versions.values())
    log_drift(tracking, parent, runs.values(), drift, results.root)
    return drift


def _ask_the_gate(
    tracking: Tracking,
    results: PipelineResults,
    best: Candidate,
    version: str,
    data: PreparedData,
    predictions: pd.DataFrame,
) -> Verdict:
    """Return what the gate says of the best student, by now a version; it moves the aliases."""
    params = results.params
    name = params.register.model_name
    entry = Entry(name, version, best.name, best.seed, best.folder, best.description)
    exported = pd.read_parquet(results.root / EVALUATION / EXPORTED_FILE)
    terms = Terms(data, predictions, exported, params.evaluate, params.register.gate)
    return decide(tracking, entry, terms)


def test_digest(data: PreparedData) -> str:
    """Return the SHA-256 of the test split: what is heard and what should be written."""
    rows = data.split("test")
    digest = hashlib.sha256()
    for key, text in sorted(zip(rows["audio_key"], rows["text"].fillna(""), strict=True)):
        digest.update(f"{key} {text}\n".encode())
    return digest.hexdigest()


def _candidates(
    results: PipelineResults, runs: Mapping[str, str], digest_of_test: str
) -> list[Candidate]:
    """Return of each student the seed of the lowest validation WER."""
    candidates = []
    for row in results.summary.students.values():
        assert row.best_seed is not None  # students have one
        best = row.of_seed(row.best_seed)
        title = f"Student `{row.name}` from seed {best.seed}"
        tags = {**results.tags, UNIT_TAG: results.summary.data.unit.value}
        if len(row.by_seed) > 1:
            title += f", the best on the validation split of {len(row.by_seed)} seeds"
            tags |= {MEAN_WER_TAG: repr(row.wer.value), WER_SD_TAG: repr(row.wer.sd)}
        assert best.valid_wer is not None  # it was trained here
        candidates.append(
            Candidate(
                name=row.name,
                seed=best.seed,
                folder=results.root / "models" / best.model,
                md5=results.md5_of(f"models/{best.model}"),
                run=runs[best.model],
                description=descriptions.of_version(title, results),
                tags=tags,
                test_digest=digest_of_test,
                test_wer=best.wer.value,
                valid_wer=best.valid_wer,
                num_parameters=best.parameters,
                served=_served(results, row, best),
            )
        )
    return candidates


def _trained_on(
    tracking: Tracking, results: PipelineResults, student: str, data: PreparedData
) -> bytes | None:
    """Return which audio a student learnt from, with what the version it started from learnt from.

    None where that version does not say.
    """
    frame = data.frame
    keys = frame.loc[frame["split"] != "test", "audio_key"]
    before = None
    if results.params.distill.students[student].registered_init is not None:
        source = read_source(results.root / REGISTERED / "students" / student)
        if source is None:
            return None
        try:
            before = read_keys(check_version(tracking, source.name, source.version))
        except (TrackingError, ModelError):
            before = None
        if before is None:
            return None
    return pack_keys(keys, before)


def _served(results: PipelineResults, row: ModelRow, best: SeedRow) -> Served:
    """Return the format in which a student is served."""
    settings = results.params.register
    formats = results.summary.exports[row.name].formats
    return choose_format(
        settings.serve_format,
        best.wer.value,
        {name: figures.wer.value for name, figures in formats.items()},
        results.root / "models/exported" / row.name,
        settings.max_format_loss,
        results.summary.data.unit,
    )
