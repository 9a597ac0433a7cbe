"""From prepared data to what a trainer takes."""

from __future__ import annotations

from pathlib import Path

from distillery.data.features import pack_features
from distillery.data.manifest import PreparedData, labelled
from distillery.data.text import Vocabulary
from distillery.params.models import FeatureParams
from distillery.params.training import TrainingParams
from distillery.training.batches import TrainingSet
from distillery.training.curves import Validation


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
    return Validation(items, texts, vocabulary, data.unit_of("valid"))
