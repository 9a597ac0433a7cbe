"""Reverberation: convolution with impulse responses, recorded or generated.

A response begins when the sound leaves its source, and the direct sound arrives some time later.
Output is taken from that moment on, so that speech stays where it was and echoes follow it.

Generated responses are Polack's model (1988): direct sound, then Gaussian noise that falls by 60 dB
in RT60 seconds, h(t) = δ(t) + c·g(t)·10^(-3t / RT60), with c so that the direct sound has a drawn
number of decibels over all echoes together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor
from torch.nn import functional as F

from distillery.augmentations.base import WaveformAugmentation, fast_length
from distillery.params.augmentation import ReverberationParams


class Reverberation(WaveformAugmentation):
    """Put whole utterances into rooms."""

    def __init__(
        self,
        params: ReverberationParams,
        sample_rate_hz: int,
        responses: Sequence[np.ndarray] = (),
    ) -> None:
        """Prepare rooms.

        Args:
            params: how often, and which rooms are generated.
            sample_rate_hz: of the waveforms.
            responses: impulse responses to draw from, int16 `(taps,)`; none generates them.
        """
        self.probability = params.probability
        self.rt60_seconds = params.rt60_seconds
        self.direct_db = params.direct_db
        self.sample_rate_hz = sample_rate_hz
        self.responses = responses

    def apply(self, waveform: Tensor, random: np.random.Generator) -> Tensor:
        """Return the waveform `(samples,)` as it sounds in a room."""
        if self.responses:
            drawn = self.responses[int(random.integers(len(self.responses)))]
            response = torch.from_numpy(drawn.astype(np.float32))
        else:
            rt60, direct_db = random.uniform(*self.rt60_seconds), random.uniform(*self.direct_db)
            response = generate_response(rt60, direct_db, self.sample_rate_hz, random)
        return reverberate(waveform, response)


def reverberate(waveform: Tensor, response: Tensor) -> Tensor:
    """Return a waveform `(samples,)` convolved with a response `(taps,)`, as long, about as loud.

    The response's largest sample, in size, is taken for the direct sound.
    """
    direct = int(response.abs().argmax())
    unit = response / torch.linalg.vector_norm(response)
    num_heard = len(waveform) + len(response) - 1
    padded = F.pad(waveform, (0, fast_length(num_heard) - num_heard))
    reverberated: Tensor = torchaudio.functional.fftconvolve(padded, unit)
    return reverberated[direct : direct + len(waveform)]


def generate_response(
    rt60_seconds: float, direct_db: float, sample_rate_hz: int, random: np.random.Generator
) -> Tensor:
    """Return an impulse response `(taps,)`, float32, its first sample the direct sound, 1."""
    num_taps = max(2, round(rt60_seconds * sample_rate_hz))
    decay = 10 ** (-3 * np.arange(num_taps) / num_taps)
    echoes = random.standard_normal(num_taps) * decay
    echoes[0] = 0.0
    response = echoes * 10 ** (-direct_db / 20) / np.linalg.norm(echoes)
    response[0] = 1.0
    return torch.from_numpy(response.astype(np.float32))
