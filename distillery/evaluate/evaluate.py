"""What the stage `evaluate` does: every model on the transcribed test split, scored and compared.

    predictions.parquet  one row per model, seed and utterance
    exported.parquet     the same of every student's best seed as it was exported, by format
    per_speaker.csv      WER of each model and speaker
    by_duration.csv      WER of each model on short to long utterances
    plots/               learning curves, WER against size and speed, errors, speakers, filter
    summary.json         all figures; `wer`, `cer` and gains are fractions

A student that was trained from several seeds is one model: its figures are means over its seeds,
and what each seed gave stands beside them. Everything but the real-time factor and the computing
time of streaming students is a function of
data, models and settings.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distillery.data.manifest import PreparedData
from distillery.data.scoring import count_errors
from distillery.distill.filtering import read_report
from distillery.evaluate import plots
from distillery.evaluate.candidates import (
    Candidate,
    Run,
    best_valid_wer,
    find_candidates,
    or_infinite,
    read_curves,
)
from distillery.evaluate.exported import EXPORTED_FILE, measure_exports
from distillery.evaluate.figures import weights_bytes
from distillery.evaluate.latency import Heard, latency_figures, usual_way
from distillery.evaluate.listening import labelled_test_rows, predict, speed_clip
from distillery.evaluate.predictions import (
    by_duration,
    compare,
    per_speaker,
    rates,
    rates_with_language_model,
)
from distillery.evaluate.speed import SpeedResult, measure_real_time_factor
from distillery.files import whole_folder, write_json
from distillery.language_model.evaluation import Decoded, decode_with_language_model
from distillery.models.base import Teacher
from distillery.models.recogniser import Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.params.language_model import LanguageModelParams
from distillery.serve.streaming import can_stream
from distillery.teachers.saved import load_teacher

logger = logging.getLogger(__name__)

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Measured:
    """What is known of every run, to make a model's row of the summary from."""

    models: Path
    params: EvaluateParams
    recognisers: Mapping[Run, Teacher]
    predictions: pd.DataFrame
    heard: Mapping[Run, Sequence[Heard]]
    histories: Mapping[Run, Sequence[Mapping[str, Any]]]
    speeds: Mapping[Run, SpeedResult]

    def row(self, candidate: Candidate) -> dict[str, Any]:
        """Return all figures of a model: means over its seeds, and those of each seed.

        A student's best seed is that of the lowest validation WER.
        """
        row = {
            "model": candidate.key,
            "role": candidate.role,
            "name": candidate.name,
            **self._figures(candidate.runs),
        }
        if candidate.seeds == (None,):
            return row
        by_seed = [
            {**row, "model": run.path, "seed": run.seed, **self._figures([run])}
            for run in candidate.runs
        ]
        row["by_seed"] = by_seed
        if candidate.role == "student":
            best = min(by_seed, key=lambda item: (or_infinite(item["valid_wer"]), item["seed"]))
            row["best_seed"] = best["seed"]
        return row

    def _figures(self, runs: Sequence[Run]) -> dict[str, Any]:
        model, seeds = runs[0].model, [run.seed for run in runs]
        scored = self.predictions[self.predictions["model"] == model]
        if seeds != [None]:
            scored = scored[scored["seed"].isin(seeds)]
        wers = [best_valid_wer(self.histories[run]) for run in runs]
        known = [wer for wer in wers if wer is not None]
        figures = {
            "parameters": self.recognisers[runs[0]].num_parameters,
            "bytes": weights_bytes(self.models / runs[0].path),
            **rates(scored, self.params),
            **rates_with_language_model(scored, self.params),
            "valid_wer": statistics.fmean(known) if known else None,
            "real_time_factor": statistics.fmean(self.speeds[r].real_time_factor for r in runs),
            "device": self.speeds[runs[0]].device,
        }
        recogniser = self.recognisers[runs[0]]
        if can_stream(recogniser):
            figures["latency_ms"] = self._latency(recogniser, runs)
        return figures

    def _latency(self, recogniser: Recogniser, runs: Sequence[Run]) -> dict[str, float | None]:
        (teacher,) = (run for run in self.recognisers if run.seed is None)
        return latency_figures(
            recogniser,
            [item for run in runs for item in self.heard[run]],
            self.params.stream_chunk_seconds,
            self.recognisers[teacher],
            [item for _ in runs for item in self.heard[teacher]],
        )


def evaluate_models(
    data: PreparedData,
    models: Path,
    curves: Path,
    students: Sequence[str],
    seeds: Sequence[int],
    params: EvaluateParams,
    output: Path,
    language_model: LanguageModelParams | None = None,
) -> dict[str, Any]:
    """Score teacher, students and controls on the test split and write the report.

    Args:
        data: prepared data.
        models: folder of the saved models.
        curves: folder of their learning curves.
        students: names of the students.
        seeds: what each of them was trained from.
        params: settings of the stage.
        output: folder that the report replaces.
        language_model: settings of the one that models are measured with, too; None: with none.

    Returns:
        What summary.json holds.

    Raises:
        CorpusError: no test utterance has a transcript with a word in it.
        ModelError: a model is missing or damaged, or made for another sample rate.
        StageError: a learning curve is missing or damaged.
    """
    rows = labelled_test_rows(data)
    candidates = find_candidates(models, students, seeds)
    runs = [run for candidate in candidates for run in candidate.runs]
    histories = {run: read_curves(curves / f"{run.path}.jsonl") for run in runs}
    recognisers = {run: load_teacher(models / run.path) for run in runs}
    for recogniser in recognisers.values():
        recogniser.check_sample_rate(data.sample_rate_hz)
    predictions, heard = predict(data, rows, recognisers, params.stream_chunk_seconds)
    decoded = _decode(data, rows, recognisers, language_model)
    if decoded:
        predictions = with_language_model(predictions, runs, decoded)
    clip = speed_clip(data, rows, params.speed_seconds)
    speeds = _speeds(recognisers, clip, data.sample_rate_hz, params)
    measured = Measured(models, params, recognisers, predictions, heard, histories, speeds)
    table = [measured.row(candidate) for candidate in candidates]
    best = [Run(row["model"], row["best_seed"]) for row in table if row["role"] == "student"]
    exported, exports = measure_exports(
        data, rows, clip, {run: recognisers[run] for run in best}, models, predictions, params
    )
    summary = {
        "confidence": params.confidence,
        "seeds": list(seeds),
        "data": describe(rows),
        "models": table,
        "exports": exports,
        "comparisons": {name: compare(name, predictions, params) for name in students},
        "filters": {  # the same under every seed
            name: read_report(models / Run(f"students/{name}", seeds[0]).path) for name in students
        },
        "language_models": {
            run.path: {
                **asdict(item.tuned.settings),
                "valid_wer": item.tuned.valid_wer,
                "valid_wer_greedy": item.tuned.valid_wer_greedy,
            }
            for run, item in decoded.items()
        },
    }
    _write_report(output, summary, predictions, exported, histories)
    return summary


def _decode(
    data: PreparedData,
    rows: pd.DataFrame,
    recognisers: Mapping[Run, Teacher],
    language_model: LanguageModelParams | None,
) -> dict[Run, Decoded]:
    """Return what is heard with the language model; empty of those that are not asked."""
    if language_model is None or not language_model.is_used:
        return {}
    asked = {
        run: recogniser
        for run, recogniser in recognisers.items()
        if run.seed is None or language_model.for_students
    }
    return decode_with_language_model(data, rows, asked, language_model)


def _speeds(
    recognisers: Mapping[Run, Teacher],
    clip: np.ndarray,
    sample_rate_hz: int,
    params: EvaluateParams,
) -> dict[Run, SpeedResult]:
    """Return how fast each runs as it is meant to, on a recording `(samples,)`."""
    seconds = len(clip) / sample_rate_hz
    return {
        run: measure_real_time_factor(
            usual_way(model, params.stream_chunk_seconds), clip, seconds, params.speed_repeats
        )
        for run, model in recognisers.items()
    }


def with_language_model(
    predictions: pd.DataFrame, runs: Sequence[Run], decoded: Mapping[Run, Decoded]
) -> pd.DataFrame:
    """Return the predictions with `hypothesis_lm` and `word_errors_lm`, empty of other models.

    Args:
        predictions: of `predict`: one row per model, seed and utterance.
        runs: the models, as they were given to `predict`.
        decoded: what some of them heard in the same utterances with the language model.
    """
    nothing = [None] * (len(predictions) // len(runs))
    texts = [text for run in runs for text in (decoded[run].texts if run in decoded else nothing)]
    errors = [
        None if text is None else count_errors(reference.split(), text.split()).errors
        for reference, text in zip(predictions["text"], texts, strict=True)
    ]
    return predictions.assign(
        hypothesis_lm=pd.Series(texts, dtype="object"),
        word_errors_lm=pd.Series(errors, dtype="Int64"),
    )


def describe(rows: pd.DataFrame) -> dict[str, Any]:
    """Return how much some utterances are."""
    return {
        "utterances": len(rows),
        "words": sum(len(text.split()) for text in rows["text"]),
        "hours": float(rows["duration_seconds"].sum() / SECONDS_PER_HOUR),
        "speakers": int(rows["speaker"].nunique()),
    }


def _write_report(
    output: Path,
    summary: Mapping[str, Any],
    predictions: pd.DataFrame,
    exported: pd.DataFrame,
    histories: Mapping[Run, Sequence[Mapping[str, Any]]],
) -> None:
    models, confidence = summary["models"], summary["confidence"]
    curves = {run.path: points for run, points in histories.items()}
    speakers = per_speaker(predictions)
    with whole_folder(output) as folder:
        write_json(folder / "summary.json", summary)
        predictions.to_parquet(folder / "predictions.parquet", index=False)
        exported.to_parquet(folder / EXPORTED_FILE, index=False)
        speakers.to_csv(folder / "per_speaker.csv", index=False)
        by_duration(predictions).to_csv(folder / "by_duration.csv", index=False)
        drawn = folder / "plots"
        drawn.mkdir()
        plots.plot_learning_curves(curves, models, drawn / "learning_curves.png")
        plots.plot_wer_against_size(models, confidence, drawn / "wer_against_size.png")
        plots.plot_wer_against_speed(models, confidence, drawn / "wer_against_speed.png")
        plots.plot_error_counts(models, drawn / "error_counts.png")
        plots.plot_wer_by_speaker(models, speakers, drawn / "wer_by_speaker.png")
        if any(summary["filters"].values()):
            plots.plot_filter(summary["filters"], drawn / "filter.png")
    logger.info("report written to %s", output)
