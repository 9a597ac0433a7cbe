"""Speed perturbation: copies of utterances, played faster or slower (Ko et al., 2015).

Contract: its own keys. A copy is an utterance of its own: it has an audio key and the transcript of
the utterance that it is made from. Of copies in `cache.speed_factors` the teacher has outputs of
their own, so nothing is re-timed; it does not hear those in `distill.augmentation.speed_factors`,
which learn from its outputs of the utterance, stretched evenly.

The key is derived, SHA-256 of the source's key and both rates, so that no audio has to be resampled
to see what a cache lacks. The audit that runs the teacher again covers copies, too.

Imports no PyTorch: a pass over a cache that lacks nothing costs no more than reading indexes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from distillery.data.audio import SAMPLE_SCALE, resample, to_int16
from distillery.data.manifest import PreparedData, audio_key

HEARD_COLUMNS = (
    "audio_key",
    "shard",
    "offset_samples",
    "num_samples",
    "duration_seconds",
    "played_hz",  # where there are copies
)
"""What needs to be known of an utterance, or a copy of one, to hear it."""
LEARNT_COLUMNS = ("utterance_id", "text", *HEARD_COLUMNS)
"""What needs to be known of one to learn from it."""


def training_rows(
    data: PreparedData, factors: Sequence[float], columns: Iterable[str] | None = None
) -> pd.DataFrame:
    """Return the training split, transcribed or not, and behind it its copies.

    Args:
        data: prepared data.
        factors: speeds of the copies.
        columns: of the manifest that are wanted; None: all. Copies need `utterance_id` and
            `HEARD_COLUMNS`.
    """
    return with_copies(data.split("train", columns), factors, data.sample_rate_hz)


def with_copies(rows: pd.DataFrame, factors: Sequence[float], sample_rate_hz: int) -> pd.DataFrame:
    """Return manifest rows and, behind them, a copy of all for each factor; index reset."""
    if not factors:
        return rows
    copies = [copy_at(rows, factor, sample_rate_hz) for factor in factors]
    return pd.concat([rows.assign(played_hz=sample_rate_hz), *copies], ignore_index=True)


def with_unheard_copies(
    rows: pd.DataFrame, factors: Sequence[float], sample_rate_hz: int
) -> pd.DataFrame:
    """Return rows that a teacher heard and, behind them, copies that it did not; index reset.

    Two columns say what of the teacher's a row learns from: `heard_key`, the audio key of what it
    heard, and `stretch`, the factor by which that was longer. Copies of copies are not made.

    Args:
        rows: utterances, and copies of them that the teacher heard.
        factors: speeds of the copies to make, of each utterance at speed 1.
        sample_rate_hz: rate of the prepared audio.
    """
    rows = rows.assign(heard_key=rows["audio_key"], stretch=1.0)
    if not factors:
        return rows
    if "played_hz" not in rows:
        rows = rows.assign(played_hz=sample_rate_hz)
    own = rows[rows["played_hz"] == sample_rate_hz]
    copies = [copy_at(own, factor, sample_rate_hz).assign(stretch=factor) for factor in factors]
    return pd.concat([rows, *copies], ignore_index=True)


def copy_at(rows: pd.DataFrame, factor: float, sample_rate_hz: int) -> pd.DataFrame:
    """Return manifest rows as they are when they are played at another speed.

    Ids, keys and durations are those of the copies. Where the samples lie stays as it is, for a
    copy is made of its source whenever it is read: `played_hz` is the rate that these are taken to
    have when they are resampled.

    Args:
        rows: manifest rows at speed 1.
        factor: above 1 the audio is shorter and higher.
        sample_rate_hz: rate of the prepared audio.
    """
    played_hz = round(factor * sample_rate_hz)
    num_samples = -(-rows["num_samples"] * sample_rate_hz // played_hz)
    return rows.assign(
        utterance_id=[f"{name}@{factor:g}" for name in rows["utterance_id"]],
        audio_key=[_copy_key(key, played_hz, sample_rate_hz) for key in rows["audio_key"]],
        duration_seconds=num_samples / sample_rate_hz,
        played_hz=played_hz,
    )


def _copy_key(key: str, played_hz: int, sample_rate_hz: int) -> str:
    return hashlib.sha256(f"{key} {played_hz}/{sample_rate_hz}".encode()).hexdigest()


def key_of(data: PreparedData, row: Any) -> str:
    """Return the audio key that an utterance, or a copy of one, has by the samples on this disk.

    Args:
        data: the prepared audio.
        row: as of `waveform_of`.
    """
    key, rate = audio_key(data.samples(row)), data.sample_rate_hz
    played_hz = int(getattr(row, "played_hz", rate))
    return key if played_hz == rate else _copy_key(key, played_hz, rate)


def waveform_of(data: PreparedData, row: Any, *, original: bool = False) -> np.ndarray:
    """Return a prepared utterance, or a copy of one, as float32 in [-1, 1) `(samples,)`.

    Args:
        data: the prepared audio.
        row: as of `PreparedData.samples`; it may say the rate that the samples are taken to have,
            as rows of distillery/data/copies.py do.
        original: whether the utterance itself is wanted where the row is a copy of one.
    """
    rate = data.sample_rate_hz
    played_hz = int(getattr(row, "played_hz", rate))
    if original or played_hz == rate:
        return data.waveform(row)
    changed = resample(to_int16(data.waveform(row)), played_hz, rate)
    return changed.astype(np.float32) / np.float32(SAMPLE_SCALE)
