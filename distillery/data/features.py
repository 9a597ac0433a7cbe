"""Features of audio, normalised per utterance, and their packed form for training."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor, nn

from distillery.data.copies import HEARD_COLUMNS, waveform_of
from distillery.data.feature_constants import LOG_FLOOR, VARIANCE_FLOOR
from distillery.data.feature_store import FeatureStore, StoredFeatures
from distillery.data.manifest import PreparedData
from distillery.data.normalisation import RunningNormaliser
from distillery.device import num_threads
from distillery.params.models import KALDI_FBANK, LOG_MEL, FeatureParams

FILE_LAYOUT = "2.0"
"""Of the store; part of the digest in its name, so another layout has another store."""
MAPPED_UTTERANCES = 4096
"""Whose packed audio stays mapped while features are made."""

Samples = TypeVar("Samples", int, np.ndarray)


class Extractor(nn.Module):
    """Turn one waveform into features of zero mean and unit variance.

    Normalising every band over the utterance removes level and channel, normalising all bands
    together the level alone; data/normalisation.py has the running form. Every utterance is
    computed by itself, so its features never depend on what else is in the batch.
    """

    hop_samples: int

    def __init__(self, params: FeatureParams) -> None:
        super().__init__()
        self.is_running = params.normalise == "running"
        self.normalised_dims = (0, 1) if params.normalise == "level" else (0,)

    def num_frames(self, num_samples: Samples) -> Samples:
        """Return the number of feature frames of a waveform, or of many, `(utterances,)`."""
        raise NotImplementedError

    def logs(self, waveform: Tensor) -> Tensor:
        """Return log energies `(feature_frames, mels)`, not normalised, of `(samples,)`."""
        raise NotImplementedError

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the features `(feature_frames, mels)` of a waveform `(samples,)`."""
        logs = self.logs(waveform)
        if self.is_running:
            return RunningNormaliser()(logs)
        centred = logs - logs.mean(dim=self.normalised_dims)
        variance = centred.square().mean(dim=self.normalised_dims)
        return centred / torch.sqrt(variance + VARIANCE_FLOOR)


class LogMel(Extractor):
    """Log-mel features as torchaudio computes them."""

    def __init__(self, params: FeatureParams, sample_rate_hz: int) -> None:
        super().__init__(params)
        window = round(params.window_seconds * sample_rate_hz)
        self.hop_samples = round(params.hop_seconds * sample_rate_hz)
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate_hz,
            n_fft=2 ** math.ceil(math.log2(window)),
            win_length=window,
            hop_length=self.hop_samples,
            n_mels=params.num_mels,
            pad_mode="constant",
        )

    def num_frames(self, num_samples: Samples) -> Samples:
        """Return the number of feature frames of a waveform, or of many, `(utterances,)`."""
        return num_samples // self.hop_samples + 1

    def logs(self, waveform: Tensor) -> Tensor:
        """Return log energies `(feature_frames, mels)`, not normalised, of `(samples,)`."""
        return torch.log(self.mel(waveform) + LOG_FLOOR).T


class KaldiFbank(Extractor):
    """Kaldi's log filter-bank energies, by the same code as where the model is served."""

    def __init__(self, params: FeatureParams, sample_rate_hz: int) -> None:
        from distillery.data.kaldi import KaldiFilterBank  # brings SciPy, 0.1 s of a start

        super().__init__(params)
        self.bank = KaldiFilterBank(params, sample_rate_hz)
        self.hop_samples = self.bank.hop_samples

    def num_frames(self, num_samples: Samples) -> Samples:
        """Return the number of feature frames of a waveform, or of many, `(utterances,)`."""
        return self.bank.num_frames(num_samples)

    def logs(self, waveform: Tensor) -> Tensor:
        """Return log energies `(feature_frames, mels)`, not normalised, of `(samples,)`."""
        return torch.from_numpy(self.bank(waveform.numpy()))


def extractor_of(params: FeatureParams, sample_rate_hz: int) -> Extractor:
    """Return what makes such features of waveforms at such a rate.

    Raises:
        ModelError: so many mel bands cannot be told apart at this rate.
    """
    kinds = {LOG_MEL: LogMel, KALDI_FBANK: KaldiFbank}
    return kinds[params.type](params, sample_rate_hz)


def pad(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack `(frames, …)` tensors into `(batch, frames, …)`, zeros behind; lengths `(batch,)`."""
    lengths = torch.tensor([len(item) for item in items])
    return nn.utils.rnn.pad_sequence(list(items), batch_first=True), lengths


@dataclass(frozen=True)
class PackedFeatures:
    """Features of many utterances in one half-precision array; or their lengths alone."""

    values: np.ndarray  # (all feature_frames, mels), float16
    offsets: np.ndarray  # (utterances + 1,), int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_frames(self) -> np.ndarray:
        """Feature frames of each utterance `(utterances,)`."""
        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one utterance's features `(feature_frames, mels)`, float16, a view."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def unpacked_features(num_frames: np.ndarray) -> PackedFeatures:
    """Return lengths `(utterances,)` alone, for features that are made when they are needed."""
    offsets = np.concatenate([[0], np.cumsum(num_frames)])
    return PackedFeatures(np.zeros((0, 0), np.float16), offsets)


def gather(items: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Copy `(frames, …)` arrays into float32 `(batch, frames, …)`, zeros behind, with lengths."""
    lengths = [len(item) for item in items]
    batch = torch.zeros(len(items), max(lengths), *items[0].shape[1:])
    view = batch.numpy()
    for position, item in enumerate(items):
        view[position, : lengths[position]] = item
    return batch, torch.tensor(lengths)


def pack_features(
    data: PreparedData,
    rows: pd.DataFrame,
    params: FeatureParams,
    scratch: Path,
) -> StoredFeatures:
    """Compute features once, or reopen what an earlier run or another model computed.

    The store's name is a digest of the settings, and utterances are known by their audio keys, so
    it never serves others.

    Args:
        data: the prepared audio.
        rows: its utterances to pack, in order; copies at other speeds may be among them.
        params: feature settings.
        scratch: folder for the store; may be deleted at any time between runs.
    """
    extractor = extractor_of(params, data.sample_rate_hz)
    spec = f"{params.model_dump_json()} {data.sample_rate_hz} {FILE_LAYOUT}"
    digest = hashlib.sha256(spec.encode()).hexdigest()[:20]

    calls = itertools.count(1)

    def make(row: Any) -> np.ndarray:
        if next(calls) % MAPPED_UTTERANCES == 0:
            data.unmap()
        with torch.inference_mode():
            waveform = torch.from_numpy(waveform_of(data, row))
            features: np.ndarray = extractor(waveform).half().numpy()
            return features

    with num_threads(1):
        store = FeatureStore(scratch / f"features-{digest}", params.num_mels)
        return store.pack(rows[[name for name in HEARD_COLUMNS if name in rows]], make)
