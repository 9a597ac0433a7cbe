"""From prepared data to what a trainer takes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from distillery.batches import TrainingSet
from distillery.errors import CorpusError
from distillery.features import pack_features
from distillery.manifest import PreparedData
from distillery.params import FeatureParams, TrainingParams
from distillery.text import Vocabulary
from distillery.training import Validation


def labelled(data: PreparedData, split: str) -> pd.DataFrame:
    """Return the transcribed utterances of a split.

    Raises:
        CorpusError: there is none.
    """
    rows = data.split(split)
    rows = rows[rows["text"].notna()].reset_index(drop=True)
    if rows.empty:
        raise CorpusError(
            f"split {split!r}: holds no transcribed utterance, at least one is needed; "
            "add transcripts to the corpus"
        )
    return rows


def validation_set(
    data: PreparedData,
    features: FeatureParams,
    training: TrainingParams,
    scratch: Path,
    vocabulary: Vocabulary,
) -> Validation:
    """Return the transcribed validation split, ready to be decoded."""
    rows = labelled(data, "valid")
    packed = pack_features(data, rows, features, scratch)
    texts = list(rows["text"])
    items = TrainingSet(
        [packed], [None] * len(rows), features.hop_seconds, training.batch_seconds, 0
    )
    return Validation(items, texts, vocabulary)
