"""What one model did on the test split: what is measured, and how it is from its predictions.

Every figure here goes into summary.json, into reports/metrics.json and, as `test/NAME`, to MLflow.
A new one is a field of `Rates` and a line of `rates`; `distillery.evaluate.tables` has the columns
that people see.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from distillery.evaluate.predictions import errors_by_seed, has_language_model, rate_over
from distillery.evaluate.records import Estimate, Record
from distillery.params.evaluate import EvaluateParams


class Rates(Record):
    """Error rates and counts of one model; those of several seeds are means over them."""

    wer: Estimate
    """Word error rate: word errors per word spoken. Words are characters, here and below, where
    these are what the data are counted in (`TestData.unit`)."""
    cer: Estimate
    """Character error rate: character errors per character of the transcripts, spaces included;
    where phrases are counted, the rate of these once more."""
    substitutions: int | float
    """Words that were heard as others."""
    deletions: int | float
    """Words that were not heard."""
    insertions: int | float
    """Words that were heard and not spoken."""
    words: int
    """Words spoken."""
    empty_fraction: float
    """Share of the utterances with words in which nothing was heard."""
    wer_lm: Estimate | None = None
    """Word error rate with the decoder, as it is served; None where it was not measured."""

    @property
    def served_wer(self) -> Estimate:
        """What counts where it is served: with the decoder, where there is one."""
        return self.wer if self.wer_lm is None else self.wer_lm

    @property
    def error_counts(self) -> dict[str, int | float]:
        """Substitutions, deletions and insertions, by these words."""
        return {
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
        }


def rates(scored: pd.DataFrame, params: EvaluateParams) -> Rates:
    """Return one model's rates with intervals, and its counts, as means over its seeds.

    Args:
        scored: its rows of the predictions.
        params: settings of the stage.
    """
    words = errors_by_seed(scored, "words")[0]
    characters = errors_by_seed(scored, "characters")[0]
    heard = scored.loc[scored["words"] > 0, "hypothesis"]
    with_lm = None
    if has_language_model(scored):
        errors = errors_by_seed(scored, "word_errors_lm").astype(int)
        with_lm = Estimate.of(rate_over(errors, words, params))
    return Rates(
        wer=Estimate.of(rate_over(errors_by_seed(scored, "word_errors"), words, params)),
        cer=Estimate.of(rate_over(errors_by_seed(scored, "character_errors"), characters, params)),
        substitutions=_mean_count(errors_by_seed(scored, "substitutions")),
        deletions=_mean_count(errors_by_seed(scored, "deletions")),
        insertions=_mean_count(errors_by_seed(scored, "insertions")),
        words=int(words.sum()),
        empty_fraction=float((heard == "").mean()),
        wer_lm=with_lm,
    )


def _mean_count(counts: np.ndarray) -> int | float:
    """Return the mean over seeds of a corpus's count, whole if there is one seed."""
    total, num_seeds = int(counts.sum()), len(counts)
    return total if num_seeds == 1 else total / num_seeds
