"""What a table of predictions says: error rates with intervals, gains, speakers, durations.

A row per model, seed and utterance: `model`, `seed` (empty for the teacher), `utterance_id`,
`speaker`, `duration_seconds`, `text`, `hypothesis` and the counts of `error_columns`; where a
language model was used, `word_errors_lm` as well. Rates and their differences are fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from distillery.data.scoring import SeedsResult, count_errors, rate_over_seeds, spread
from distillery.params.evaluate import EvaluateParams

BOOTSTRAP_SEED = 0
NUM_DURATION_BINS = 4
UNKNOWN_SPEAKER = "(unknown)"
ERROR_KINDS = ("substitutions", "deletions", "insertions")


def error_columns(texts: pd.Series[str], hypotheses: Sequence[str]) -> pd.DataFrame:
    """Return the counts of errors, words and characters of each utterance.

    Args:
        texts: what was spoken, normalised.
        hypotheses: what was recognised, as many.
    """
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


def rates(scored: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Return one model's corpus rates with intervals, and its counts, as means over its seeds.

    Args:
        scored: its rows of the predictions.
        params: settings of the stage.
    """
    words, characters = _by_seed(scored, "words")[0], _by_seed(scored, "characters")[0]
    wer = _rate(_by_seed(scored, "word_errors"), words, params)
    cer = _rate(_by_seed(scored, "character_errors"), characters, params)
    spoken = scored[scored["words"] > 0]
    return {
        **interval_fields("wer", wer),
        **interval_fields("cer", cer),
        **{kind: _mean_count(_by_seed(scored, kind)) for kind in ERROR_KINDS},
        "words": int(words.sum()),
        "empty_fraction": float((spoken["hypothesis"] == "").mean()),
    }


def rates_with_language_model(scored: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Return one model's WER with the language model; empty where it was not measured.

    Args:
        scored: its rows of the predictions.
        params: settings of the stage.
    """
    if not _has_language_model(scored):
        return {}
    words, errors = _by_seed(scored, "words")[0], _by_seed(scored, "word_errors_lm")
    return interval_fields("wer_lm", _rate(errors.astype(int), words, params))


def compare(student: str, predictions: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Return what distillation gained a student, and how far it is from the teacher.

    Each seed's student is compared with the control of that seed; the figures are means over the
    seeds, with what each of them gave in `by_seed`. The share of the gap between control and
    teacher that the student closes is that of the mean WERs; None where there is no gap.

    Args:
        student: its name.
        predictions: of all models.
        params: settings of the stage.
    """
    of_teacher, of_student, of_control = (
        predictions[predictions["model"] == model]
        for model in ("teacher", f"students/{student}", f"controls/{student}")
    )
    words = of_teacher["words"].to_numpy()
    errors = _by_seed(of_student, "word_errors")  # (seeds, utterances)
    teacher_errors = _by_seed(of_teacher, "word_errors")  # (1, utterances)
    excess = interval_fields("excess_wer", _rate(errors - teacher_errors, words, params))
    if of_control.empty:
        nothing = ("gain_wer", "gain_wer_sd", "gain_wer_low", "gain_wer_high")
        return {
            **excess,
            **dict.fromkeys((*nothing, "gap_closed", "gap_closed_sd")),
            "gain_significant": False,
            "verdict": "no control was trained: what distillation gained is unknown",
            "by_seed": [],
        }
    control_errors = _by_seed(of_control, "word_errors")  # (seeds, utterances)
    less, gap = control_errors - errors, control_errors - teacher_errors
    gain = _rate(less, words, params)
    each = [_rate(row[None], words, params) for row in less]
    closed = [gap_closed(*sums) for sums in zip(less.sum(axis=1), gap.sum(axis=1), strict=True)]
    known = [share for share in closed if share is not None]
    gain_lm = {}
    if _has_language_model(of_student) and _has_language_model(of_control):
        with_it = [_by_seed(each, "word_errors_lm") for each in (of_control, of_student)]
        less_lm = (with_it[0] - with_it[1]).astype(int)
        gain_lm = interval_fields("gain_wer_lm", _rate(less_lm, words, params))
    return {
        **excess,
        **gain_lm,
        **interval_fields("gain_wer", gain),
        "gain_significant": gain.significant,
        "gap_closed": gap_closed(less.sum(), gap.sum()),
        "gap_closed_sd": spread(known) if len(known) == len(closed) else None,
        "verdict": verdict(gain),
        "by_seed": [
            {"seed": seed, **interval_fields("gain_wer", result), "gap_closed": share}
            for seed, result, share in zip(_seeds(of_student), each, closed, strict=True)
        ],
    }


def gap_closed(errors_less: int, gap: int) -> float | None:
    """Return (control - student) / (control - teacher), None where the teacher is no better.

    Args:
        errors_less: errors of the control minus those of the student.
        gap: errors of the control minus those of the teacher.
    """
    return float(errors_less / gap) if gap > 0 else None


def verdict(gain: SeedsResult) -> str:
    """Return in one sentence what distillation gained.

    Args:
        gain: the control's WER minus the student's.
    """
    points, low, high = (100 * value for value in (gain.mean, gain.low, gain.high))
    seeds = ""
    if gain.sd is not None:
        seeds = f", mean of {len(gain.by_seed)} seeds, sd {100 * gain.sd:.1f}"
    if not gain.significant:
        return f"no significant gain: {points:.1f} points of WER ({low:.1f} to {high:.1f}){seeds}"
    if points > 0:
        return f"distillation gained {points:.1f} points of WER ({low:.1f} to {high:.1f}){seeds}"
    return (
        f"distillation made it worse by {-points:.1f} points of WER "
        f"({-high:.1f} to {-low:.1f}){seeds}"
    )


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


def interval_fields(name: str, result: SeedsResult) -> dict[str, float | None]:
    """Return a figure under a name, and its spread and interval under longer ones."""
    return {
        name: result.mean,
        f"{name}_sd": result.sd,
        f"{name}_low": result.low,
        f"{name}_high": result.high,
    }


def _has_language_model(scored: pd.DataFrame) -> bool:
    return "word_errors_lm" in scored and not scored["word_errors_lm"].isna().any()


def _seeds(scored: pd.DataFrame) -> list[int]:
    """Return the seeds of one model's predictions, in their order."""
    return [int(seed) for seed in scored["seed"].unique()]


def _by_seed(scored: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column of one model's predictions `(seeds, utterances)`."""
    num_seeds = max(1, scored["seed"].nunique())  # the teacher's is empty
    return scored[column].to_numpy().reshape(num_seeds, -1)


def _rate(errors: np.ndarray, lengths: np.ndarray, params: EvaluateParams) -> SeedsResult:
    """Return the rate of errors, or of differences of them, `(seeds, utterances)`."""
    return rate_over_seeds(errors, lengths, params.num_resamples, params.confidence, BOOTSTRAP_SEED)


def _mean_count(counts: np.ndarray) -> int | float:
    """Return the mean over seeds of a corpus's count, whole if there is one seed."""
    total, num_seeds = int(counts.sum()), len(counts)
    return total if num_seeds == 1 else total / num_seeds


def _group_rates(predictions: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return counts and WER of each group; the WER of a group without words is empty.

    What several seeds say of an utterance counts as one utterance with the mean of their errors.
    """
    groups = predictions.groupby(columns, sort=True)
    table = groups.agg(
        utterances=("utterance_id", "nunique"),
        words=("words", "sum"),
        errors=("word_errors", "sum"),
    )
    table["wer"] = table.pop("errors") / table["words"].where(table["words"] > 0)
    table["words"] //= groups["seed"].nunique().clip(lower=1)  # the teacher's is empty
    return table.reset_index()
