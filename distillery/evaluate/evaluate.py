"""What the stage `evaluate` does: every model on the transcribed test split, scored and compared.

    predictions.parquet  one row per model, seed and utterance
    exported.parquet     the same of every student's best seed as it was exported, by format
    per_speaker.csv      WER of each model and speaker
    by_duration.csv      WER of each model on short to long utterances
    plots/               learning curves, WER against size and speed, errors, speakers, filter
    summary.json         all figures; `wer`, `cer` and gains are fractions

Where the data are counted in characters, words and WER are characters and their rate of errors;
what people read calls them so.

A student that was trained from several seeds is one model: its figures are means over its seeds,
and what each seed gave stands beside them. Everything but the real-time factor and the computing
time of streaming students is a function of data, models and settings.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.manifest import PreparedData
from distillery.data.units import Unit
from distillery.decoder.making import Learnt
from distillery.distill.fall_back import FellBack, read_fell_back
from distillery.distill.filtering import FilterReport, read_report
from distillery.evaluate import plots
from distillery.evaluate.comparison import compare
from distillery.evaluate.curves import CurvePoint, best_valid_wer, course_of, read_curves
from distillery.evaluate.exported import measure_exports
from distillery.evaluate.latency import Heard, latency_figures, usual_way
from distillery.evaluate.listening import (
    JUDGED_COLUMNS,
    labelled_test_rows,
    predict,
    speed_clip,
)
from distillery.evaluate.models import ScoredModel, TrainedModel, find_models, weights_bytes
from distillery.evaluate.predictions import by_duration, per_speaker, rows_of
from distillery.evaluate.rates import rates
from distillery.evaluate.searched import search, with_searched
from distillery.evaluate.speed import SpeedResult, measure_real_time_factor
from distillery.evaluate.summary import (
    EXPORTED_FILE,
    PREDICTIONS_FILE,
    Latency,
    ModelFigures,
    ModelRow,
    SeedRow,
    Summary,
    TestData,
)
from distillery.files import whole_folder
from distillery.models.base import Teacher
from distillery.models.recogniser import Recogniser
from distillery.params.evaluate import EvaluateParams
from distillery.params.language_model import LanguageModelParams
from distillery.serve.streaming import can_stream
from distillery.teachers.kinds import load_teacher

logger = logging.getLogger(__name__)

Recognisers = Mapping[TrainedModel, Teacher]
Histories = Mapping[TrainedModel, Sequence[CurvePoint]]
"""The learning curves of each model."""


@dataclass(frozen=True)
class Measured:
    """What is known of every trained model, to make the rows of the summary from."""

    models: Path
    """Folder of the saved models."""
    params: EvaluateParams
    """Settings of the stage."""
    recognisers: Recognisers
    predictions: pd.DataFrame
    """Of all of them."""
    heard: Mapping[TrainedModel, Sequence[Heard]]
    """What each heard in each utterance."""
    histories: Histories
    speeds: Mapping[TrainedModel, SpeedResult]

    def row(self, model: ScoredModel) -> ModelRow:
        """Return all figures of a model: means over its seeds, and those of each seed.

        A student's best seed is that of the lowest validation WER.
        """
        by_seed = tuple(
            SeedRow(
                model=trained.path,
                role=model.role,
                name=model.name,
                seed=trained.seed,
                **dict(self._figures([trained])),
            )
            for trained in model.trained
            if trained.seed is not None
        )
        best = None
        if model.role == "student":
            best = min(by_seed, key=lambda row: (_or_infinite(row.valid_wer), row.seed)).seed
        return ModelRow(
            model=model.key,
            role=model.role,
            name=model.name,
            by_seed=by_seed,
            best_seed=best,
            **dict(self._figures(model.trained)),
        )

    def _figures(self, trained: Sequence[TrainedModel]) -> ModelFigures:
        """Return the figures of one model, means over what was trained of it."""
        first, seeds = trained[0], [one.seed for one in trained]
        scored = rows_of(self.predictions, first.model)
        if seeds != [None]:
            scored = scored[scored["seed"].isin(seeds)]
        fallen = [self._fell_back(one) for one in trained]
        wers = [
            best_valid_wer(self.histories[one]) if found is None else found.control_valid_wer
            for one, found in zip(trained, fallen, strict=True)
        ]
        courses = [one for one in (course_of(self.histories[one]) for one in trained) if one]
        recogniser = self.recognisers[first]
        return ModelFigures(
            **dict(rates(scored, self.params)),
            parameters=recogniser.num_parameters,
            bytes=weights_bytes(self.models / first.path),
            valid_wer=_mean(wers),
            real_time_factor=statistics.fmean(self.speeds[one].real_time_factor for one in trained),
            device=self.speeds[first].device,
            latency_ms=self._latency(recogniser, trained) if can_stream(recogniser) else None,
            num_epochs=_mean([course.num_epochs for course in courses]),
            cpu_seconds=_mean([course.cpu_seconds for course in courses]),
            converged=_mean([float(course.converged) for course in courses]),
            fell_back=_mean(
                [
                    float(found is not None)
                    for one, found in zip(trained, fallen, strict=True)
                    if one.is_student
                ]
            ),
            valid_wer_as_trained=_mean([found.student_valid_wer for found in fallen if found]),
        )

    def _fell_back(self, trained: TrainedModel) -> FellBack | None:
        """Return whether a student has its control's weights; no other model has."""
        return read_fell_back(self.models / trained.path) if trained.is_student else None

    def _latency(self, recogniser: Recogniser, trained: Sequence[TrainedModel]) -> Latency:
        (teacher,) = (one for one in self.recognisers if one.seed is None)
        return latency_figures(
            recogniser,
            [item for one in trained for item in self.heard[one]],
            self.params.stream_chunk_seconds,
            self.recognisers[teacher],
            [item for _ in trained for item in self.heard[teacher]],
        )


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def evaluate_models(
    data: PreparedData,
    models: Path,
    curves: Path,
    students: Sequence[str],
    seeds: Sequence[int],
    params: EvaluateParams,
    output: Path,
    language_model: LanguageModelParams | None = None,
    learnt: Learnt | None = None,
) -> Summary:
    """Score teacher, students and controls on the test split and write the report.

    Args:
        data: prepared data.
        models: folder of the saved models.
        curves: folder of their learning curves.
        students: names of the students.
        seeds: what each of them was trained from.
        params: settings of the stage.
        output: folder that the report replaces.
        language_model: settings of the teacher's own search; None: it has none.
        learnt: n-grams and words that students are served with; None: best paths.

    Raises:
        CorpusError: no test utterance has a transcript with a word in it.
        ModelError: a model is missing or damaged, or made for another sample rate.
        StageError: a learning curve is missing or damaged.
    """
    rows, unit = labelled_test_rows(data)[JUDGED_COLUMNS], data.unit_of("test")
    scored = find_models(models, students, seeds)
    trained = [one for model in scored for one in model.trained]
    histories = {one: read_curves(curves / f"{one.path}.jsonl") for one in trained}
    recognisers = {one: load_teacher(models / one.path) for one in trained}
    for recogniser in recognisers.values():
        recogniser.check_sample_rate(data.sample_rate_hz)
    predictions, heard = predict(data, rows, recognisers, params.stream_chunk_seconds)
    searches = search(data, rows, recognisers, language_model, learnt)
    if searches.found:
        predictions = with_searched(predictions, trained, searches.found, unit)
    clip = speed_clip(data, rows, params.speed_seconds)
    speeds = _speeds(recognisers, clip, data.sample_rate_hz, params)
    measured = Measured(models, params, recognisers, predictions, heard, histories, speeds)
    table = tuple(measured.row(model) for model in scored)
    chosen = [TrainedModel(row.model, row.best_seed) for row in table if row.role == "student"]
    best = {one: recognisers[one] for one in chosen}
    where = data, rows, clip
    exported, exports = measure_exports(*where, best, models, predictions, params, searches)
    summary = Summary(
        confidence=params.confidence,
        seeds=tuple(seeds),
        data=describe(rows, unit, data.unit_of("valid")),
        models=table,
        exports=exports,
        comparisons={name: compare(name, predictions, params, unit) for name in students},
        filters={name: _filter_report(models, name, seeds[0]) for name in students},
        language_models={one.path: item.tuned for one, item in searches.found.items()},
    )
    _write_report(output, summary, predictions, exported, histories)
    return summary


def _filter_report(models: Path, student: str, seed: int) -> FilterReport | None:
    """Return what the filter did to a student's training texts, the same under every seed."""
    return read_report(models / TrainedModel(f"students/{student}", seed).path)


def _speeds(
    recognisers: Recognisers, clip: np.ndarray, sample_rate_hz: int, params: EvaluateParams
) -> dict[TrainedModel, SpeedResult]:
    """Return how fast each runs as it is meant to, on a recording `(samples,)`.

    A service tells how long its answers took: it is not asked again.
    """
    seconds = len(clip) / sample_rate_hz
    found = {}
    for trained, model in recognisers.items():
        told = getattr(model, "real_time_factor", None)
        found[trained] = (
            measure_real_time_factor(
                usual_way(model, params.stream_chunk_seconds), clip, seconds, params.speed_repeats
            )
            if told is None
            else SpeedResult(told, told * seconds, "a service")
        )
    return found


def describe(
    rows: pd.DataFrame, unit: Unit = Unit.WORD, valid_unit: Unit | None = None
) -> TestData:
    """Return how much some utterances are, in words or what else errors are counted in."""
    return TestData(
        utterances=len(rows),
        words=sum(len(unit.parts(text)) for text in rows["text"]),
        hours=float(rows["duration_seconds"].sum() / SECONDS_PER_HOUR),
        speakers=int(rows["speaker"].nunique()),
        unit=unit,
        valid_unit=None if valid_unit is unit else valid_unit,
    )


def _write_report(
    output: Path,
    summary: Summary,
    predictions: pd.DataFrame,
    exported: pd.DataFrame,
    histories: Histories,
) -> None:
    models, confidence, unit = summary.models, summary.confidence, summary.data.unit
    curves = {trained.path: points for trained, points in histories.items()}
    speakers = per_speaker(predictions)
    with whole_folder(output) as folder:
        summary.write(folder)
        predictions.to_parquet(folder / PREDICTIONS_FILE, index=False)
        exported.to_parquet(folder / EXPORTED_FILE, index=False)
        speakers.to_csv(folder / "per_speaker.csv", index=False)
        by_duration(predictions).to_csv(folder / "by_duration.csv", index=False)
        drawn = folder / "plots"
        drawn.mkdir()
        plots.plot_learning_curves(
            curves, models, drawn / "learning_curves.png", summary.data.valid_unit or unit
        )
        plots.plot_wer_against_size(models, confidence, drawn / "wer_against_size.png", unit)
        plots.plot_wer_against_speed(models, confidence, drawn / "wer_against_speed.png", unit)
        plots.plot_error_counts(models, drawn / "error_counts.png", unit)
        plots.plot_wer_by_speaker(models, speakers, drawn / "wer_by_speaker.png", unit)
        if any(summary.filters.values()):
            plots.plot_filter(summary.filters, drawn / "filter.png")
    logger.info("report written to %s", output)


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value
