"""Tables of predictions: what they hold, and errors by seed, by speaker and by duration.

A row per model, seed and utterance: `model`, `seed` (empty for the teacher), `utterance_id`,
`speaker`, `duration_seconds`, `text`, `hypothesis` and the fields of `Errors`; where a language
model was used, `hypothesis_lm` and `word_errors_lm` as well. Rates are fractions. What is called
words here and in the tables are characters where these are what the data are counted in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from distillery.data.scoring import SeedsResult, count_errors, count_text_errors, rate_over_seeds
from distillery.data.units import Unit
from distillery.params.evaluate import EvaluateParams

BOOTSTRAP_SEED = 0
NUM_DURATION_BINS = 4
UNKNOWN_SPEAKER = "(unknown)"


class Errors(NamedTuple):
    """What was counted in one utterance."""

    substitutions: int
    """Words that were heard as others."""
    deletions: int
    """Words that were not heard."""
    insertions: int
    """Words that were heard and not spoken."""
    word_errors: int
    """The three together."""
    words: int
    """Words spoken."""
    character_errors: int
    """Characters that differ, blanks included."""
    characters: int
    """Characters of the transcript, blanks included."""

    @classmethod
    def between(cls, text: str, hypothesis: str, unit: Unit = Unit.WORD) -> Errors:
        """Return the errors in what was heard.

        Args:
            text: what was spoken, normalised.
            hypothesis: what was recognised.
            unit: what counts as a word.
        """
        words = count_text_errors(text, hypothesis, unit)
        # Expected phrases are no text whose characters could be compared.
        characters = words if unit is Unit.PHRASE else count_errors(text, hypothesis)
        return cls(
            words.substitutions,
            words.deletions,
            words.insertions,
            words.errors,
            words.reference_length,
            characters.errors,
            characters.reference_length,
        )


def error_columns(
    texts: pd.Series[str], hypotheses: Sequence[str], unit: Unit = Unit.WORD
) -> pd.DataFrame:
    """Return the errors of each utterance as a table with the fields of `Errors`.

    Args:
        texts: what was spoken, normalised.
        hypotheses: what was recognised, as many.
        unit: what counts as a word.
    """
    pairs = zip(texts, hypotheses, strict=True)
    counted = (Errors.between(*pair, unit) for pair in pairs)
    row = np.dtype((np.int32, len(Errors._fields)))  # many millions of rows are most of the memory
    return pd.DataFrame(np.fromiter(counted, row, len(texts)), columns=list(Errors._fields))


FIGURES = ("seed", "hypothesis", *Errors._fields, "word_errors_lm")
"""What figures of a model are made from."""
COMPARED = ("seed", "words", "word_errors", "word_errors_lm")
"""What models are compared by."""
GROUPED = ("model", "seed", "speaker", "duration_seconds", "words", "word_errors")
"""What speakers and durations are compared by."""


def rows_of(
    predictions: pd.DataFrame, model: str, columns: Sequence[str] = FIGURES
) -> pd.DataFrame:
    """Return columns, as far as they are there, of one model's predictions.

    Where they stand together, as `predict` leaves them, nothing is copied.
    """
    there = [name for name in columns if name in predictions]
    places = np.flatnonzero((predictions["model"] == model).to_numpy(bool))
    if not len(places) or places[-1] - places[0] >= len(places):
        return predictions[there].iloc[places]
    return predictions[there].iloc[places[0] : places[-1] + 1]


def has_language_model(scored: pd.DataFrame) -> bool:
    """Return whether one model's predictions hold what it heard with the language model."""
    return "word_errors_lm" in scored and not scored["word_errors_lm"].isna().any()


def as_served(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return predictions whose texts and word errors are those of the decoder, where it was used.

    Rows of models without one stay; so do character errors, by which nobody is judged.
    """
    if "word_errors_lm" not in predictions:
        return predictions
    searched = predictions["word_errors_lm"].notna()
    return predictions.assign(
        hypothesis=predictions["hypothesis_lm"].where(searched, predictions["hypothesis"]),
        word_errors=predictions["word_errors_lm"]
        .where(searched, predictions["word_errors"])
        .astype(predictions["word_errors"].dtype),
    )


def seeds_of(scored: pd.DataFrame) -> list[int]:
    """Return the seeds of one model's predictions, in their order."""
    return [int(seed) for seed in scored["seed"].unique()]


def errors_by_seed(scored: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column of one model's predictions `(seeds, utterances)`."""
    num_seeds = max(1, scored["seed"].nunique())  # the teacher's is empty
    return scored[column].to_numpy().reshape(num_seeds, -1)


def rate_over(errors: np.ndarray, lengths: np.ndarray, params: EvaluateParams) -> SeedsResult:
    """Return the rate of errors, or of differences of them, with the stage's settings.

    Args:
        errors: of each utterance under each seed `(seeds, utterances)`.
        lengths: reference length of each utterance `(utterances,)`.
        params: settings of the stage.
    """
    return rate_over_seeds(errors, lengths, params.num_resamples, params.confidence, BOOTSTRAP_SEED)


def per_speaker(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return utterances, words and WER of each model and speaker."""
    return _by_model(
        predictions,
        ["speaker"],
        lambda part: part.assign(speaker=part["speaker"].fillna(UNKNOWN_SPEAKER)),
    )


def by_duration(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return utterances, words and WER of each model on short to long utterances.

    The bins' edges, in seconds, are quantiles: each holds about as many utterances.
    """
    quantiles = np.linspace(0, 1, NUM_DURATION_BINS + 1)
    edges = np.unique(np.quantile(predictions["duration_seconds"].to_numpy(), quantiles))
    lows, highs = (
        edges[:-1] if len(edges) > 1 else edges,
        edges[1:] if len(edges) > 1 else edges,
    )

    def binned(part: pd.DataFrame) -> pd.DataFrame:
        bins = np.searchsorted(edges[1:-1], part["duration_seconds"].to_numpy(), side="right")
        return part.assign(seconds_from=lows[bins], seconds_to=highs[bins])

    return _by_model(predictions, ["seconds_from", "seconds_to"], binned)


def _by_model(
    predictions: pd.DataFrame,
    columns: list[str],
    with_columns: Callable[[pd.DataFrame], pd.DataFrame],
) -> pd.DataFrame:
    """Return counts and WER of each model and group, sorted.

    Args:
        predictions: of all models; one after the other, for copies of all would be large.
        columns: what makes a group.
        with_columns: adds them to one model's predictions.
    """
    models = sorted(predictions["model"].unique())
    parts = (with_columns(rows_of(predictions, model, GROUPED)) for model in models)
    tables = [_group_rates(part, ["model", *columns]) for part in parts]
    return pd.concat(tables, ignore_index=True)


def _group_rates(predictions: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return counts and WER of each group; the WER of a group without words is empty.

    What several seeds say of an utterance counts as one utterance with the mean of their errors.
    """
    groups = predictions.groupby(columns, sort=True)
    table = groups.agg(
        utterances=("words", "size"),
        words=("words", "sum"),
        errors=("word_errors", "sum"),
        seeds=("seed", "nunique"),
    )
    table["wer"] = table.pop("errors") / table["words"].where(table["words"] > 0)
    num_seeds = table.pop("seeds").clip(lower=1)  # the teacher's is empty
    for column in ("utterances", "words"):
        table[column] //= num_seeds
    return table.reset_index()
