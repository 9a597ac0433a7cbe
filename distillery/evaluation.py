"""What the stage `evaluate` does: every model on the transcribed test split, scored and compared.

    predictions.parquet  one row per model and utterance
    per_speaker.csv      WER of each model and speaker
    by_duration.csv      WER of each model on short to long utterances
    plots/               learning curves, WER against size and speed, error counts, speakers
    summary.json         all figures; `wer`, `cer` and gains are fractions

Everything but the real-time factor and the computing time of streaming students is a function of
data, models and settings.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery import plots
from distillery.architectures import ARCHITECTURES
from distillery.audio import compute_num_samples
from distillery.errors import CorpusError, StageError
from distillery.files import whole_folder, write_json
from distillery.latency import Heard, latency_figures, listen, stream
from distillery.manifest import PreparedData
from distillery.params import EvaluateParams
from distillery.recogniser import WEIGHTS_FILE, Recogniser
from distillery.scoring import (
    PairedResult,
    bootstrap_interval,
    count_errors,
    paired_bootstrap,
)
from distillery.speed import SpeedResult, measure_real_time_factor
from distillery.streaming import can_stream

logger = logging.getLogger(__name__)

BATCH_SECONDS = 60.0
BOOTSTRAP_SEED = 0
NUM_DURATION_BINS = 4
SECONDS_PER_HOUR = 3600
UNKNOWN_SPEAKER = "(unknown)"
GROUPS = {"teacher": "teacher", "student": "students", "control": "controls"}


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate."""

    role: str  # teacher, student or control
    name: str

    @property
    def key(self) -> str:
        """What tells it from all others, and where it lies under models/ and curves/."""
        group = GROUPS[self.role]
        return group if self.role == "teacher" else f"{group}/{self.name}"


def find_candidates(models: Path, students: Sequence[str]) -> list[Candidate]:
    """Return the teacher, and of each student its control, if one was trained, and itself.

    Args:
        models: the folder of all models.
        students: names in params.yaml; what else lies in the folder is ignored.
    """
    candidates = [Candidate("teacher", "teacher")]
    for name in students:
        control = Candidate("control", name)
        if (models / control.key / WEIGHTS_FILE).exists():
            candidates.append(control)
        candidates.append(Candidate("student", name))
    return candidates


def evaluate_models(
    data: PreparedData,
    models: Path,
    curves: Path,
    students: Sequence[str],
    params: EvaluateParams,
    output: Path,
) -> dict[str, Any]:
    """Score teacher, students and controls on the test split and write the report.

    Args:
        data: prepared data.
        models: folder of the saved models.
        curves: folder of their learning curves.
        students: names of the students.
        params: settings of the stage.
        output: folder that the report replaces.

    Returns:
        What summary.json holds.

    Raises:
        CorpusError: no test utterance has a transcript with a word in it.
        ModelError: a model is missing or damaged, or made for another sample rate.
        StageError: a learning curve is missing or damaged.
    """
    rows = labelled_test_rows(data)
    candidates = find_candidates(models, students)
    histories = {c.key: read_curves(curves / f"{c.key}.jsonl") for c in candidates}
    recognisers = {c.key: Recogniser.load(models / c.key, ARCHITECTURES) for c in candidates}
    for recogniser in recognisers.values():
        recogniser.check_sample_rate(data.sample_rate_hz)
    predictions, heard = predict(data, rows, recognisers, params.stream_chunk_seconds)
    clip = speed_clip(data, rows, params.speed_seconds)
    clip_seconds = len(clip) / data.sample_rate_hz
    summaries = []
    for candidate in candidates:
        recogniser = recognisers[candidate.key]
        speed = measure_real_time_factor(
            _way_to_run(recogniser, params.stream_chunk_seconds),
            clip,
            clip_seconds,
            params.speed_repeats,
        )
        scored = predictions[predictions["model"] == candidate.key]
        summaries.append(
            {
                **_identity(candidate, recogniser, models),
                **rates(scored, params),
                "valid_wer": _best_valid_wer(histories[candidate.key]),
                **_speed_figures(speed),
            }
        )
        if can_stream(recogniser):
            summaries[-1]["latency_ms"] = latency_figures(
                recogniser,
                heard[candidate.key],
                params.stream_chunk_seconds,
                recognisers["teacher"],
                heard["teacher"],
            )
    summary = {
        "confidence": params.confidence,
        "data": _describe(rows),
        "models": summaries,
        "comparisons": {name: compare(name, predictions, params) for name in students},
    }
    _write_report(output, summary, predictions, histories)
    return summary


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
    recognisers: Mapping[str, Recogniser],
    chunk_seconds: float,
) -> tuple[pd.DataFrame, dict[str, list[Heard]]]:
    """Return every model's hypothesis and errors, one row per model and utterance.

    Those that stream are fed chunk by chunk.

    Args:
        data: prepared data.
        rows: its utterances to recognise.
        recognisers: the models by key.
        chunk_seconds: audio in one chunk.

    Returns:
        The table, and by model what it heard in each of the rows.
    """
    columns = ["utterance_id", "speaker", "duration_seconds", "text"]
    parts, everything = [], {}
    total = len(rows) * len(recognisers)
    with tqdm(total=total, desc="evaluate", unit="utt") as bar:
        for key, recogniser in recognisers.items():
            found: dict[int, Heard] = {}
            for batch in batches(rows["duration_seconds"].to_numpy()):
                waveforms = [data.waveform(row) for row in rows.iloc[batch].itertuples()]
                found.update(zip(batch, listen(recogniser, waveforms, chunk_seconds), strict=True))
                bar.update(len(batch))
            everything[key] = [found[index] for index in range(len(rows))]
            hypotheses = [heard.text for heard in everything[key]]
            part = rows[columns].assign(hypothesis=hypotheses)
            part.insert(0, "model", key)
            parts.append(part.join(_error_columns(rows["text"], hypotheses)))
    return pd.concat(parts, ignore_index=True), everything


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


def rates(scored: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Return one model's corpus rates with intervals, and its counts.

    Args:
        scored: its rows of the predictions.
        params: settings of the stage.
    """
    word_errors = scored["word_errors"].to_numpy()
    words = scored["words"].to_numpy()
    character_errors = scored["character_errors"].to_numpy()
    characters = scored["characters"].to_numpy()
    wer_low, wer_high = bootstrap_interval(
        word_errors, words, params.num_resamples, params.confidence, BOOTSTRAP_SEED
    )
    cer_low, cer_high = bootstrap_interval(
        character_errors,
        characters,
        params.num_resamples,
        params.confidence,
        BOOTSTRAP_SEED,
    )
    kinds = ("substitutions", "deletions", "insertions", "words")
    return {
        "wer": float(word_errors.sum() / words.sum()),
        "wer_low": wer_low,
        "wer_high": wer_high,
        "cer": float(character_errors.sum() / characters.sum()),
        "cer_low": cer_low,
        "cer_high": cer_high,
        **{kind: int(scored[kind].sum()) for kind in kinds},
    }


def compare(student: str, predictions: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Return what distillation gained a student, and how far it is from the teacher.

    Args:
        student: its name.
        predictions: of all models.
        params: settings of the stage.
    """
    own, control = Candidate("student", student).key, Candidate("control", student).key
    excess = _difference(own, "teacher", predictions, params)
    figures: dict[str, Any] = {
        "excess_wer": excess.difference,
        "excess_wer_low": excess.low,
        "excess_wer_high": excess.high,
    }
    if control not in set(predictions["model"]):
        nothing = ("gain_wer", "gain_wer_low", "gain_wer_high", "gap_closed")
        return {
            **figures,
            **dict.fromkeys(nothing),
            "gain_significant": False,
            "verdict": "no control was trained: what distillation gained is unknown",
        }
    gain = _difference(control, own, predictions, params)
    gap = gain.difference + excess.difference  # control - teacher
    return {
        **figures,
        "gain_wer": gain.difference,
        "gain_wer_low": gain.low,
        "gain_wer_high": gain.high,
        "gain_significant": gain.significant,
        "gap_closed": gain.difference / gap if gap > 0 else None,
        "verdict": verdict(gain),
    }


def verdict(gain: PairedResult) -> str:
    """Return in one sentence what distillation gained.

    Args:
        gain: the control's WER minus the student's.
    """
    points, low, high = (100 * value for value in (gain.difference, gain.low, gain.high))
    if not gain.significant:
        return f"no significant gain: {points:.1f} points of WER ({low:.1f} to {high:.1f})"
    if points > 0:
        return f"distillation gained {points:.1f} points of WER ({low:.1f} to {high:.1f})"
    return f"distillation made it worse by {-points:.1f} points of WER ({-high:.1f} to {-low:.1f})"


def per_speaker(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return utterances, words and WER of each model and speaker."""
    named = predictions.assign(speaker=predictions["speaker"].fillna(UNKNOWN_SPEAKER))
    return _group_rates(named, ["model", "speaker"])


def by_duration(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return utterances, words and WER of each model on short to long utterances.

    The bins' edges, in seconds, are quantiles: each holds about as many utterances.
    """
    seconds = predictions["duration_seconds"].to_numpy()
    edges = np.unique(np.quantile(seconds, np.linspace(0, 1, NUM_DURATION_BINS + 1)))
    bins = np.searchsorted(edges[1:-1], seconds, side="right")
    lows, highs = (
        edges[:-1] if len(edges) > 1 else edges,
        edges[1:] if len(edges) > 1 else edges,
    )
    binned = predictions.assign(seconds_from=lows[bins], seconds_to=highs[bins])
    return _group_rates(binned, ["model", "seconds_from", "seconds_to"])


def flat_metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary's numbers as `dvc metrics` shows them: by group, then name."""
    metrics: dict[str, Any] = {"teacher": {}, "students": {}, "controls": {}}
    for row in summary["models"]:
        numbers: dict[str, Any] = _numbers(row)
        if "latency_ms" in row:
            numbers["latency_ms"] = _numbers(row["latency_ms"])
        if row["role"] == "teacher":
            metrics["teacher"] = numbers
        else:
            if row["role"] == "student":
                numbers |= _numbers(summary["comparisons"][row["name"]])
            metrics[GROUPS[row["role"]]][row["name"]] = numbers
    return metrics


def _numbers(values: Mapping[str, Any]) -> dict[str, int | float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _identity(candidate: Candidate, recogniser: Recogniser, models: Path) -> dict[str, Any]:
    return {
        "model": candidate.key,
        "role": candidate.role,
        "name": candidate.name,
        "parameters": recogniser.num_parameters,
        "bytes": (models / candidate.key / WEIGHTS_FILE).stat().st_size,
    }


def _way_to_run(
    recogniser: Recogniser, chunk_seconds: float
) -> Callable[[Sequence[np.ndarray]], object]:
    """Return the function from a batch to texts as which the recogniser is meant to run."""
    if not can_stream(recogniser):
        return recogniser.transcribe
    return lambda waveforms: [stream(recogniser, item, chunk_seconds) for item in waveforms]


def _speed_figures(speed: SpeedResult) -> dict[str, Any]:
    return {"real_time_factor": speed.real_time_factor, "device": speed.device}


def _describe(rows: pd.DataFrame) -> dict[str, Any]:
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


def _error_columns(texts: pd.Series[str], hypotheses: Sequence[str]) -> pd.DataFrame:
    columns = []
    for text, hypothesis in zip(texts, hypotheses, strict=True):
        words = count_errors(text.split(), hypothesis.split())
        characters = count_errors(text, hypothesis)
        columns.append(
            {
                "substitutions": words.substitutions,
                "deletions": words.deletions,
                "insertions": words.insertions,
                "word_errors": words.errors,
                "words": words.reference_length,
                "character_errors": characters.errors,
                "characters": characters.reference_length,
            }
        )
    return pd.DataFrame(columns)


def _difference(a: str, b: str, predictions: pd.DataFrame, params: EvaluateParams) -> PairedResult:
    """Return model a's WER minus model b's; every model's rows have the same order."""
    rows_a = predictions[predictions["model"] == a]
    rows_b = predictions[predictions["model"] == b]
    return paired_bootstrap(
        rows_a["word_errors"].to_numpy(),
        rows_b["word_errors"].to_numpy(),
        rows_a["words"].to_numpy(),
        params.num_resamples,
        params.confidence,
        BOOTSTRAP_SEED,
    )


def _group_rates(predictions: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return counts and WER of each group; the WER of a group without words is empty."""
    groups = predictions.groupby(columns, sort=True)
    table = groups.agg(
        utterances=("utterance_id", "size"),
        words=("words", "sum"),
        errors=("word_errors", "sum"),
    )
    table["wer"] = table.pop("errors") / table["words"].where(table["words"] > 0)
    return table.reset_index()


def _write_report(
    output: Path,
    summary: Mapping[str, Any],
    predictions: pd.DataFrame,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    models, confidence = summary["models"], summary["confidence"]
    speakers = per_speaker(predictions)
    with whole_folder(output) as folder:
        write_json(folder / "summary.json", summary)
        predictions.to_parquet(folder / "predictions.parquet", index=False)
        speakers.to_csv(folder / "per_speaker.csv", index=False)
        by_duration(predictions).to_csv(folder / "by_duration.csv", index=False)
        drawn = folder / "plots"
        drawn.mkdir()
        plots.plot_learning_curves(curves, models, drawn / "learning_curves.png")
        plots.plot_wer_against_size(models, confidence, drawn / "wer_against_size.png")
        plots.plot_wer_against_speed(models, confidence, drawn / "wer_against_speed.png")
        plots.plot_error_counts(models, drawn / "error_counts.png")
        plots.plot_wer_by_speaker(models, speakers, drawn / "wer_by_speaker.png")
    logger.info("report written to %s", output)
