"""A student as PyTorch runs it, for recordings of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from distillery.models.recogniser import Recogniser
from distillery.serve.long_audio import Layout, is_long, long_text, scores_in_windows
from distillery.serve.normalised_features import NumpyFeatures
from distillery.serve.numpy_features import numpy_features


@dataclass(frozen=True)
class TorchTranscriber:
    """A `Recogniser` that transcribes; short recordings go through it as a batch."""

    recogniser: Recogniser

    @property
    def sample_rate_hz(self) -> int:
        """Of the waveforms that it is given, in hertz."""
        return self.recogniser.sample_rate_hz

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""
        return self.recogniser.weights_digest

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the greedy transcripts of waveforms `(samples,)`, float32 in [-1, 1) or int16."""
        rate = self.sample_rate_hz
        short = [item for item in waveforms if not is_long(len(item), rate)]
        texts = iter(self.recogniser.transcribe(short) if short else [])
        return [
            self._long_text(item) if is_long(len(item), rate) else next(texts) for item in waveforms
        ]

    @cached_property
    def _extractor(self) -> NumpyFeatures:
        """Gives what the recogniser's own does, but for rounding, and block by block."""
        return numpy_features(self.recogniser.features, self.sample_rate_hz)

    def _long_text(self, samples: np.ndarray) -> str:
        recogniser = self.recogniser
        layout = Layout(
            **{
                name: value
                for name, value in recogniser.architecture.model_dump().items()
                if name in Layout.__dataclass_fields__
            }
        )
        hop_seconds = recogniser.features.hop_seconds
        windows = scores_in_windows(samples, self._extractor, layout, hop_seconds, self._run)
        return long_text(windows, recogniser.vocabulary)

    @torch.inference_mode()
    def _run(self, features: np.ndarray) -> np.ndarray:
        """Return scores `(1, frames, vocab)` for `(1, feature_frames, mels)`."""
        device = self.recogniser.device
        scores = self.recogniser.network.scores(torch.from_numpy(features).to(device), None)
        found: np.ndarray = scores.float().cpu().numpy()
        return found
