"""Features without PyTorch, of each kind, for what is served."""

from __future__ import annotations

import numpy as np

from distillery.data.audio import as_waveform
from distillery.data.kaldi import BLOCK_FRAMES, KaldiFilterBank, mirrored
from distillery.params.models import KALDI_FBANK, LOG_MEL, FeatureParams
from distillery.serve.log_mel import NumpyLogMel
from distillery.serve.normalised_features import NumpyFeatures


class NumpyKaldi(NumpyFeatures):
    """Kaldi's log filter-bank energies, by the same code as in training, normalised."""

    block_frames = BLOCK_FRAMES

    def __init__(self, params: FeatureParams, sample_rate_hz: int) -> None:
        super().__init__(params)
        self.bank = KaldiFilterBank(params, sample_rate_hz)

    def num_frames(self, num_samples: int) -> int:
        """Return the number of feature frames of a waveform."""
        return self.bank.num_frames(num_samples)

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        begin = self.bank.first_sample + start * self.bank.hop_samples
        return begin, begin + (stop - 1 - start) * self.bank.hop_samples + self.bank.window_samples

    def _logs_between(self, samples: np.ndarray, begin: int, end: int) -> np.ndarray:
        return self.bank.energies(as_waveform(mirrored(samples, begin, end)))


def numpy_features(params: FeatureParams, sample_rate_hz: int) -> NumpyFeatures:
    """Return what makes such features of waveforms at such a rate.

    Raises:
        ModelError: so many mel bands cannot be told apart at this rate.
    """
    kinds = {LOG_MEL: NumpyLogMel, KALDI_FBANK: NumpyKaldi}
    return kinds[params.type](params, sample_rate_hz)
