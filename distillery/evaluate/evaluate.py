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

import json
import logging
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery.data.audio import compute_num_samples
from distillery.data.manifest import PreparedData
from distillery.data.scoring import count_errors
from distillery.distill.filtering import read_report
from distillery.errors import CorpusError, StageError
from distillery.evaluate import plots
from distillery.evaluate.exported import export_and_listen
from distillery.evaluate.latency import Heard, latency_figures, listen, usual_way
from distillery.evaluate.predictions import (
    by_duration,
    compare,
    error_columns,
    per_speaker,
    rates,
    rates_with_language_model,
)
from distillery.evaluate.speed import SpeedResult, measure_real_time_factor
from distillery.files import whole_folder, write_json
from distillery.language_model.evaluation import Decoded, decode_with_language_model
from distillery.models.recogniser import WEIGHTS_FILE, Recogniser
from distillery.params.whole import EvaluateParams, LanguageModelParams
from distillery.serve.streaming import can_stream
from distillery.teachers.base import Teacher
from distillery.teachers.kinds import load_teacher

logger = logging.getLogger(__name__)

BATCH_SECONDS = 60.0
SECONDS_PER_HOUR = 3600
GROUPS = {"teacher": "teacher", "student": "students", "control": "controls"}
EXPORTED = "exported"  # beside the students
EXPORTED_FILE = "exported.parquet"
COPIED_COLUMNS = ["model", "seed", "utterance_id", "speaker", "duration_seconds", "text"]


class Run(NamedTuple):
    """A model as trained from one seed; the teacher has no number."""

    model: str
    seed: int | None

    def __str__(self) -> str:
        return self.path

    @property
    def path(self) -> str:
        """Where it lies under models/ and curves/."""
        return self.model if self.seed is None else f"{self.model}/seed-{self.seed}"


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate."""

    role: str  # teacher, student or control
    name: str
    seeds: tuple[int | None, ...] = (None,)

    @property
    def key(self) -> str:
        """What tells it from all others."""
        group = GROUPS[self.role]
        return group if self.role == "teacher" else f"{group}/{self.name}"

    @property
    def runs(self) -> list[Run]:
        """What was trained, one per seed."""
        return [Run(self.key, seed) for seed in self.seeds]


def find_candidates(models: Path, students: Sequence[str], seeds: Sequence[int]) -> list[Candidate]:
    """Return the teacher, and of each student its control, if one was trained, and itself.

    Args:
        models: the folder of all models.
        students: names in params.yaml; what else lies in the folder is ignored.
        seeds: what each of them was trained from.
    """
    candidates = [Candidate("teacher", "teacher")]
    for name in students:
        control = Candidate("control", name, tuple(seeds))
        if all((models / run.path / WEIGHTS_FILE).exists() for run in control.runs):
            candidates.append(control)
        candidates.append(Candidate("student", name, tuple(seeds)))
    return candidates


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
            best = min(by_seed, key=lambda item: (_or_infinite(item["valid_wer"]), item["seed"]))
            row["best_seed"] = best["seed"]
        return row

    def _figures(self, runs: Sequence[Run]) -> dict[str, Any]:
        model, seeds = runs[0].model, [run.seed for run in runs]
        scored = self.predictions[self.predictions["model"] == model]
        if seeds != [None]:
            scored = scored[scored["seed"].isin(seeds)]
        wers = [_best_valid_wer(self.histories[run]) for run in runs]
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


def labelled_test_rows(data: PreparedData) -> pd.DataFrame:
    """Return the transcribed utterances of the test split.

    Raises:
        CorpusError: there is none, or none holds a word.
    """
    rows = data.split("test")
    labelled = rows[rows["text"].notna()].reset_index(drop=True)
    if not labelled["text"].str.strip().any():
        raise CorpusError(
            f"split 'test': {len(rows)} utterances, {len(labelled)} with a transcript, none of "
            "which holds a word; at least one is needed to measure a word error rate, so add "
            "test transcripts to the corpus, or raise prepare.test_fraction"
        )
    return labelled


def read_curves(path: Path) -> list[dict[str, Any]]:
    """Read learning curves: a JSON object with `key`, `value` and `step` in each line.

    Raises:
        StageError: the file is missing, or a line is something else.
    """
    if not path.exists():
        raise StageError(f"{path}: no such file; run the stage that trains this model again")
    points = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            point = json.loads(line)
            points.append({name: point[name] for name in ("key", "value", "step")})
        except (ValueError, KeyError, TypeError):
            raise StageError(
                f"{path}: line {number} is {line[:60]!r}, expected an object with key, value and "
                "step; run the stage that trains this model again"
            ) from None
    return points


def predict(
    data: PreparedData,
    rows: pd.DataFrame,
    recognisers: Mapping[Run, Teacher],
    chunk_seconds: float,
) -> tuple[pd.DataFrame, dict[Run, list[Heard]]]:
    """Return every run's hypothesis and errors, one row per model, seed and utterance.

    Those that stream are fed chunk by chunk.

    Args:
        data: prepared data.
        rows: its utterances to recognise.
        recognisers: the models.
        chunk_seconds: audio in one chunk.

    Returns:
        The table, and by run what it heard in each of the rows.
    """
    columns = COPIED_COLUMNS[2:]
    parts, everything = [], {}
    total = len(rows) * len(recognisers)
    with tqdm(total=total, desc="evaluate", unit="utt") as bar:
        for run, recogniser in recognisers.items():
            found: dict[int, Heard] = {}
            for batch in batches(rows["duration_seconds"].to_numpy()):
                waveforms = [data.waveform(row) for row in rows.iloc[batch].itertuples()]
                found.update(zip(batch, listen(recogniser, waveforms, chunk_seconds), strict=True))
                bar.update(len(batch))
            everything[run] = [found[index] for index in range(len(rows))]
            hypotheses = [heard.text for heard in everything[run]]
            part = rows[columns].assign(hypothesis=hypotheses)
            part.insert(0, "model", run.model)
            part.insert(1, "seed", pd.Series(run.seed, index=part.index, dtype="Int64"))
            parts.append(part.join(error_columns(rows["text"], hypotheses)))
    return pd.concat(parts, ignore_index=True), everything


def measure_exports(
    data: PreparedData,
    rows: pd.DataFrame,
    clip: np.ndarray,
    students: Mapping[Run, Teacher],
    models: Path,
    predictions: pd.DataFrame,
    params: EvaluateParams,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Export students into models/exported, and score each form beside PyTorch's.

    Args:
        data: prepared data.
        rows: its utterances to recognise.
        clip: the recording `(samples,)` on which speed is measured.
        students: of each student the run that may be registered.
        models: folder of the saved models.
        predictions: of `predict`.
        params: settings of the stage.

    Returns:
        Predictions, one row per student, format and utterance, and by student its `seed` and, in
        `formats`, the figures of each format.
    """
    parts, exports = [], {}
    with whole_folder(models / EXPORTED) as folder:
        for run, student in students.items():
            assert isinstance(student, Recogniser)  # students are trained here
            name = run.model.partition("/")[2]
            forms = export_and_listen(
                student, models / run.path, data, rows, clip, params, folder / name
            )
            of_run = (predictions["model"] == run.model) & (predictions["seed"] == run.seed)
            eager = predictions[of_run]
            figures = {}
            for form_name, form in forms.items():
                part = eager[COPIED_COLUMNS].reset_index(drop=True)
                part.insert(2, "format", form_name)
                part["hypothesis"] = form.texts
                part = part.join(error_columns(part["text"], form.texts))
                parts.append(part)
                same = part["hypothesis"].to_numpy() == eager["hypothesis"].to_numpy()
                figures[form_name] = {
                    "bytes": form.num_bytes,
                    **rates(part, params),
                    "max_log_prob_difference": form.max_log_prob_difference,
                    "same_texts_fraction": float(same.mean()),
                    "real_time_factor": form.speed.real_time_factor,
                }
            exports[name] = {"seed": run.seed, "formats": figures}
    return pd.concat(parts, ignore_index=True), exports


def batches(seconds: np.ndarray) -> Iterator[list[int]]:
    """Yield indices, shortest utterances first, at most BATCH_SECONDS of padded audio at once.

    Args:
        seconds: duration of each utterance `(utterances,)`; a longer one is a batch by itself.
    """
    batch: list[int] = []
    for index in np.argsort(seconds, kind="stable").tolist():
        if batch and (len(batch) + 1) * seconds[index] > BATCH_SECONDS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def speed_clip(data: PreparedData, rows: pd.DataFrame, seconds: float) -> np.ndarray:
    """Return test audio `(samples,)` of the length asked for, utterance after utterance.

    Where the split is shorter than that, it starts again.
    """
    needed = compute_num_samples(seconds, data.sample_rate_hz)
    pieces: list[np.ndarray] = []
    held = 0
    for row in rows.itertuples():
        if held >= needed:
            break
        pieces.append(data.waveform(row))
        held += len(pieces[-1])
    return np.resize(np.concatenate(pieces), needed)  # repeats what is too short


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


def flat_metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary's numbers as `dvc metrics` shows them: by group, then name."""
    metrics: dict[str, Any] = {"teacher": {}, "students": {}, "controls": {}}
    for row in summary["models"]:
        numbers: dict[str, Any] = _numbers(row)
        if "latency_ms" in row:
            numbers["latency_ms"] = _numbers(row["latency_ms"])
        if row["role"] == "teacher":
            metrics["teacher"] = numbers
            continue
        if row["role"] == "student":
            numbers |= _numbers(summary["comparisons"][row["name"]])
        if len(row["by_seed"]) > 1:
            numbers["seeds"] = _numbers_by_seed(row, summary["comparisons"][row["name"]])
        metrics[GROUPS[row["role"]]][row["name"]] = numbers
    metrics["exports"] = {
        name: {form: _numbers(figures) for form, figures in export["formats"].items()}
        for name, export in summary["exports"].items()
    }
    return metrics


def _numbers_by_seed(
    row: Mapping[str, Any], comparison: Mapping[str, Any]
) -> dict[str, dict[str, int | float]]:
    """Return the few figures of each seed that people compare."""
    seeds = {
        str(run["seed"]): _numbers({name: run[name] for name in ("wer", "valid_wer")})
        for run in row["by_seed"]
    }
    if row["role"] == "student":
        for gain in comparison["by_seed"]:
            seeds[str(gain["seed"])] |= _numbers(
                {name: gain[name] for name in ("gain_wer", "gap_closed")}
            )
    return seeds


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def weights_bytes(folder: Path) -> int:
    """Return the size of a saved model's weights, whatever files they are in."""
    if (folder / WEIGHTS_FILE).exists():
        return (folder / WEIGHTS_FILE).stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def describe(rows: pd.DataFrame) -> dict[str, Any]:
    """Return how much some utterances are."""
    return {
        "utterances": len(rows),
        "words": sum(len(text.split()) for text in rows["text"]),
        "hours": float(rows["duration_seconds"].sum() / SECONDS_PER_HOUR),
        "speakers": int(rows["speaker"].nunique()),
    }


def _best_valid_wer(points: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the WER of the epoch whose weights were kept; none where nothing was trained here."""
    wers = [float(point["value"]) for point in points if point["key"] == "valid/wer"]
    return min((wer for wer in wers if math.isfinite(wer)), default=None)


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


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
