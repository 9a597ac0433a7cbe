"""What models hear in the test split, and on which of its recordings their speed is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from distillery.data.audio import compute_num_samples
from distillery.data.lengths import in_batches_by_length
from distillery.data.manifest import PreparedData
from distillery.data.units import Unit
from distillery.errors import CorpusError
from distillery.evaluate.latency import Heard, listen
from distillery.evaluate.models import TrainedModel
from distillery.evaluate.predictions import error_columns
from distillery.models.base import Teacher

BATCH_SECONDS = 60.0
"""Padded audio that is recognised at once."""
COPIED_COLUMNS = ["model", "seed", "utterance_id", "speaker", "duration_seconds", "text"]
"""Of predictions: what stands before the hypothesis and its errors."""
JUDGED_COLUMNS = [*COPIED_COLUMNS[2:], "shard", "offset_samples", "num_samples"]
"""Of the manifest: what needs to be known to hear an utterance and to judge what was heard."""


def labelled_test_rows(data: PreparedData) -> pd.DataFrame:
    """Return the utterances of the test split that models can be judged on, `text` the truth.

    Raises:
        CorpusError: there is none, or none holds a word.
    """
    labelled = data.references("test")
    num_rows = len(data.split("test", ["split"]))
    if not labelled["text"].str.strip().any():
        raise CorpusError(
            f"split 'test': {num_rows} utterances, {len(labelled)} with a transcript, none of "
            f"which holds a word; at least one is needed to measure a {data.unit.rate_in_words}, "
            "so add test transcripts to the corpus, or raise prepare.test_fraction"
        )
    return labelled


def predict(
    data: PreparedData,
    rows: pd.DataFrame,
    recognisers: Mapping[TrainedModel, Teacher],
    chunk_seconds: float,
) -> tuple[pd.DataFrame, dict[TrainedModel, list[Heard]]]:
    """Return every model's hypotheses and errors, one row per model, seed and utterance.

    Those that stream are fed chunk by chunk.

    Args:
        data: prepared data.
        rows: its utterances to recognise.
        recognisers: the models.
        chunk_seconds: audio in one chunk.

    Returns:
        The table, and of each model what it heard in each of the rows.
    """
    unit = data.unit_of("test")
    parts, everything = [], {}
    total = len(rows) * len(recognisers)
    with tqdm(total=total, desc="evaluate", unit="utt") as bar:
        for trained, recogniser in recognisers.items():
            found: dict[int, Heard] = {}
            for batch in batches(rows["duration_seconds"].to_numpy()):
                waveforms = [data.waveform(row) for row in rows.iloc[batch].itertuples()]
                found.update(zip(batch, listen(recogniser, waveforms, chunk_seconds), strict=True))
                bar.update(len(batch))
            everything[trained] = [found[index] for index in range(len(rows))]
            hypotheses = [heard.text for heard in everything[trained]]
            parts.append(predictions_of(trained, rows, hypotheses, unit))
    return pd.concat(parts, ignore_index=True), everything


def predictions_of(
    trained: TrainedModel, rows: pd.DataFrame, hypotheses: Sequence[str], unit: Unit
) -> pd.DataFrame:
    """Return a model's hypotheses and errors, one row per utterance.

    Args:
        trained: the model.
        rows: the utterances.
        hypotheses: what it heard in each.
        unit: what errors are counted in.
    """
    part = rows[COPIED_COLUMNS[2:]].assign(hypothesis=hypotheses)
    part.insert(0, "model", trained.model)
    part.insert(1, "seed", pd.Series(trained.seed, index=part.index, dtype="Int64"))
    return part.join(error_columns(rows["text"], hypotheses, unit))


def batches(seconds: np.ndarray) -> Iterator[list[int]]:
    """Return batches of indices, shortest first, at most BATCH_SECONDS of padded audio at once.

    Args:
        seconds: duration of each utterance `(utterances,)`; a longer one is a batch by itself.
    """
    order = np.argsort(seconds, kind="stable").tolist()
    return in_batches_by_length(order, seconds, max_padded=BATCH_SECONDS)


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
