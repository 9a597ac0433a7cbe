"""What a run leaves in MLflow: a parent, a run per student or control and seed, versions."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from distillery.credentials import without_credentials
from distillery.data.judged import judged
from distillery.data.manifest import PreparedData
from distillery.data.workspace import EVALUATION, PREPARED, TEACHER
from distillery.errors import ModelError, TrackingError
from distillery.evaluate.predictions import as_served
from distillery.evaluate.summary import (
    CONTROL_FOLDER,
    EXPORTED_FILE,
    PREDICTIONS_FILE,
    ModelRow,
    SeedRow,
)
from distillery.register import descriptions
from distillery.register.aliases import check_version, read_aliases
from distillery.register.choice import Choice, choose
from distillery.register.drift import Drift, drift_from_champion, log_drift
from distillery.register.gate.promotion import Entry, Terms, decide
from distillery.register.gate.verdict import REASON_TAG, Verdict
from distillery.register.known import note_registered, results_digest
from distillery.register.pipeline_results import PipelineResults
from distillery.register.registered import PARENT, Registered
from distillery.register.runs import data_sources, log_model_runs, log_parent_run
from distillery.serve.served import Served, choose_format, decoder_files
from distillery.tracking.fetched import REGISTERED, read_source
from distillery.tracking.names import CONTROL, STUDENT, model_label
from distillery.tracking.store import FELL_BACK_TAG, UNIT_TAG, Tracking
from distillery.tracking.trained_on import pack_keys, read_keys
from distillery.tracking.versions import SPELLING_TAG, Candidate, register_version

OPEN_RUN_FILE = "scratch/open_run.json"
MEAN_WER_TAG, WER_SD_TAG = "test.wer_mean", "test.wer_sd"

logger = logging.getLogger(__name__)


def register_results(tracking: Tracking, parent: str, results: PipelineResults) -> Registered:
    """Log everything that a pipeline run made, register its students, and let the gate choose.

    Safe to repeat with the same parent: equal values change nothing, and an equal student is not
    registered twice. Of a student's seeds the one of the lowest validation WER is registered. The
    test split chooses nothing, but for ruling out a student that its control beats: choice.py.

    Args:
        tracking: the connection to MLflow.
        parent: id of the pipeline's run.
        results: what is to be logged.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    settings = results.params.register
    with tracking.explained():
        data = judged(PreparedData.open(results.root / PREPARED), results.root / TEACHER)
        predictions = pd.read_parquet(results.root / EVALUATION / PREDICTIONS_FILE)
        sources = data_sources(data, results)
        runs = log_model_runs(tracking, parent, results, sources, predictions)
        choice, candidates = _choose(results, runs, test_digest(data), as_served(predictions))
        candidates = [_with_data(tracking, results, item, data) for item in candidates]
        best, name, limits = choice.best, settings.model_name, settings.serve_limits
        versions = {
            _key(item): register_version(tracking, name, item, limits) for item in candidates
        }
        drift = _log_drift(tracking, parent, results, runs, versions)
        _tell(tracking, name, choice, versions)
        number = versions[_key(best)]
        verdict = _ask_the_gate(tracking, results, choice, number, data, predictions)
        outcome = descriptions.outcome(results, best.name, best.seed, verdict, best.role)
        log_parent_run(tracking, parent, results, sources, best, verdict, outcome)
        tracking.describe_experiment(
            descriptions.of_experiment(tracking.experiment_id, outcome, verdict, results)
        )
        registered = Registered(
            name=name,
            version=verdict.version,
            alias=verdict.alias,
            reason=verdict.reason,
            champion=read_aliases(tracking, name).champion,
            student=best.name,
            role=best.role,
            seed=best.seed,
            versions=versions,
            runs={PARENT: parent, **runs},
            experiment_id=tracking.experiment_id,
            tracking_uri=without_credentials(tracking.uri),
            data_warnings=tuple(drift.warnings),
            evaluation_md5=results.md5_of(EVALUATION),
        )
        digest = results_digest(results.outputs, results.params)
        note_registered(tracking, parent, registered, digest)
        tracking.end_run(parent)
    return registered


def _choose(
    results: PipelineResults,
    runs: Mapping[str, str],
    digest_of_test: str,
    predictions: pd.DataFrame,
) -> tuple[Choice, list[Candidate]]:
    """Return what is put up, and all that become versions: the students, and a control put up."""
    params = results.params
    students = _candidates(results, runs, digest_of_test)
    controls = _controls(results, runs, digest_of_test)
    resamples = params.evaluate.num_resamples
    unit = results.summary.data.unit
    choice = choose(students, controls, predictions, params.register.gate, resamples, unit)
    return choice, [*students, *([choice.best] if choice.best.role == CONTROL else [])]


def _key(candidate: Candidate) -> str:
    """Return what a version's model is called in `Registered.versions`."""
    is_student = candidate.role == STUDENT
    return candidate.name if is_student else f"{candidate.role} {candidate.name}"


def _tell(tracking: Tracking, model_name: str, choice: Choice, versions: Mapping[str, str]) -> None:
    """Say of students that were passed over, in their versions, why.

    One that a person made champion keeps what its version says.
    """
    champion = read_aliases(tracking, model_name).champion
    for name, why in choice.passed_over.items():
        if versions[name] == champion:
            continue
        reason = f"never put up: student {name}, {why}"
        tracking.client.set_model_version_tag(model_name, versions[name], REASON_TAG, reason)


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
    choice: Choice,
    version: str,
    data: PreparedData,
    predictions: pd.DataFrame,
) -> Verdict:
    """Return what the gate says of the model put up, by now a version; it moves the aliases."""
    params, best = results.params, choice.best
    entry = Entry(
        model_name=params.register.model_name,
        version=version,
        name=best.name,
        seed=best.seed,
        folder=best.folder,
        description=best.description,
        role=best.role,
        instead=choice.instead,
        decoder=None if best.role == STUDENT else _control_folder(results, best.name),
    )
    exported = pd.read_parquet(results.root / EVALUATION / EXPORTED_FILE)
    terms = Terms(data, predictions, exported, params.evaluate, params.register.gate)
    return decide(tracking, entry, terms)


def test_digest(data: PreparedData) -> str:
    """Return the SHA-256 of the test split: what is heard and what should be written."""
    rows = data.split("test") if data.unit_of("test") is data.unit else data.references("test")
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
        best = _best_seed(row)
        candidate = _candidate(results, runs, row, best.seed, digest_of_test)
        candidates.append(replace(candidate, served=_served(results, row, best)))
    return candidates


def _controls(
    results: PipelineResults, runs: Mapping[str, str], digest_of_test: str
) -> dict[str, Candidate]:
    """Return each student's control from the seed of the student that is a candidate."""
    students = results.summary.students
    return {
        name: _candidate(results, runs, row, _best_seed(students[name]).seed, digest_of_test)
        for name, row in results.summary.controls.items()
    }


def _best_seed(row: ModelRow) -> SeedRow:
    assert row.best_seed is not None  # students have one
    return row.of_seed(row.best_seed)


def _candidate(
    results: PipelineResults,
    runs: Mapping[str, str],
    row: ModelRow,
    seed: int,
    digest_of_test: str,
) -> Candidate:
    """Return a student or control from one seed as PyTorch serves it."""
    own = row.of_seed(seed)
    title = f"{model_label(row.role, f'`{row.name}`')} from seed {seed}"
    tags = {**results.tags, UNIT_TAG: results.summary.data.unit.value}
    if len(row.by_seed) > 1:
        if row.role == STUDENT:
            title += f", the best on the validation split of {len(row.by_seed)} seeds"
        tags |= {
            MEAN_WER_TAG: repr(row.served_wer.value),
            WER_SD_TAG: repr(row.served_wer.sd),
        }
    if own.fell_back:
        title += ", with the weights of its control, which was better on the validation split"
        tags |= {FELL_BACK_TAG: "yes"}
    if row.role == CONTROL:
        title += ", trained on transcripts alone, without the teacher"
    assert own.valid_wer is not None  # it was trained here
    return Candidate(
        name=row.name,
        seed=seed,
        folder=results.root / "models" / own.model,
        md5=results.md5_of(f"models/{own.model}"),
        run=runs[own.model],
        description=descriptions.of_version(title[0].upper() + title[1:], results),
        tags=tags,
        test_digest=digest_of_test,
        test_wer=own.served_wer.value,
        valid_wer=own.valid_wer,
        num_parameters=own.parameters,
        served=Served(
            reason="controls are not exported",
            files=decoder_files(_control_folder(results, row.name)),
        ),
        role=row.role,
    )


def _with_data(
    tracking: Tracking, results: PipelineResults, candidate: Candidate, data: PreparedData
) -> Candidate:
    """Return a candidate that says which audio it learnt from, and how its texts are spelt."""
    return replace(
        candidate,
        trained_on=_trained_on(tracking, results, candidate.name, data),
        tags={**candidate.tags, SPELLING_TAG: json.dumps(data.spelling.entries)},
    )


def _control_folder(results: PipelineResults, name: str) -> Path:
    """Return where the decoder of a student's control lies, if it has one."""
    return results.root / "models/exported" / name / CONTROL_FOLDER


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
        best.served_wer.value,
        {name: figures.served_wer.value for name, figures in formats.items()},
        results.root / "models/exported" / row.name,
        settings.max_format_loss,
        results.summary.data.unit,
    )
