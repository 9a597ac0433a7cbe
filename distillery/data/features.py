"""Features of audio, normalised per utterance, and their packed form for training."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
import torchaudio
from torch import Tensor, nn
from tqdm import tqdm

from distillery.data.copies import waveform_of
from distillery.data.feature_constants import LOG_FLOOR, VARIANCE_FLOOR
from distillery.data.kaldi import KaldiFilterBank
from distillery.data.manifest import PreparedData
from distillery.data.normalisation import RunningNormaliser
from distillery.device import num_threads
from distillery.files import replace_file
from distillery.params.models import KALDI_FBANK, LOG_MEL, FeatureParams

FILE_LAYOUT = "1.0 1"
"""Of the packed file; part of the digest in its name, so another layout has other files."""

logger = logging.getLogger(__name__)
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
    """Features of many utterances in one half-precision memory map, read utterance by utterance."""

    values: np.ndarray  # (all feature_frames, mels), float16, on disk
    offsets: np.ndarray  # (utterances + 1,), int64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_frames(self) -> np.ndarray:
        """Feature frames of each utterance `(utterances,)`."""
        return np.diff(self.offsets)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one utterance's features `(feature_frames, mels)`, float16, a view of the disk."""
        # As a plain array: slicing a np.memmap costs 5 microseconds.
        return self._plain[self.offsets[row] : self.offsets[row + 1]]

    @cached_property
    def _plain(self) -> np.ndarray:
        return self.values.view(np.ndarray)


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
) -> PackedFeatures:
    """Compute features once, or reopen what an earlier run computed.

    The file's name is a digest of the audio keys and settings, so it never serves other data.

    Args:
        data: the prepared audio.
        rows: its utterances to pack, in order; copies at other speeds may be among them.
        params: feature settings.
        scratch: folder for the packed file; may be deleted at any time between runs.
    """
    extractor = extractor_of(params, data.sample_rate_hz)
    spec = f"{params.model_dump_json()} {data.sample_rate_hz} {FILE_LAYOUT}"
    digest = hashlib.sha256("\n".join([spec, *rows["audio_key"]]).encode()).hexdigest()[:20]
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"features-{digest}.npy"
    with open(path.with_suffix(".lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of trainings side by side one computes, the others wait
        packed = _open_packed(path, params.num_mels)
        if packed is None:
            bar = tqdm(rows.itertuples(), total=len(rows), desc="features", unit="utt", leave=False)
            with num_threads(1), bar:
                waveforms = (torch.from_numpy(waveform_of(data, row)) for row in bar)
                parts = (extractor(waveform).half().numpy() for waveform in waveforms)
                _save_packed(path, parts, len(rows))
            packed = _open_packed(path, params.num_mels)
            assert packed is not None
    return packed


def _open_packed(path: Path, num_mels: int) -> PackedFeatures | None:
    """Return what `_save_packed` wrote; None where it is not there, cut short or something else."""
    try:
        with open(path, "rb") as file:
            offsets = np.load(file, allow_pickle=False)
            shape = (int(offsets[-1]), num_mels)
            return PackedFeatures(np.memmap(path, np.float16, "r", file.tell(), shape), offsets)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError, TypeError, IndexError) as error:
        logger.warning("%s: cannot be read (%s); it is computed again", path, error)
        return None


def _save_packed(path: Path, parts: Iterable[np.ndarray], num_parts: int) -> None:
    """Write features as they come: memory holds one utterance, whatever the corpus."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    offsets = np.zeros(num_parts + 1, dtype=np.int64)
    try:
        with open(temporary, "wb") as file:
            np.save(file, offsets, allow_pickle=False)
            for index, part in enumerate(parts):
                file.write(np.ascontiguousarray(part).data)
                offsets[index + 1] = offsets[index] + len(part)
            file.seek(0)  # as many bytes as before
            np.save(file, offsets, allow_pickle=False)
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
