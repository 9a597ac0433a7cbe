"""A teacher with random weights that gives texts instead of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from distillery.models.recogniser import Outputs, Recogniser

Hypotheses = list[tuple[str, float]]
"""Texts of an utterance and their log-probabilities, the best first."""


class Teller(Recogniser):
    """Hears as a recogniser does, keeps its frames to itself, and says texts."""

    sure: float = 0.5
    """How sure it is of each."""
    gives_frames = False  # type: ignore[assignment]

    def texts_of(self, num_frames: Sequence[int]) -> Sequence[Hypotheses]:
        """Return what it says about utterances of so many frames."""
        raise NotImplementedError

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return texts and hidden states."""
        heard = super().forward(features, lengths, layers, precision)
        said = self.texts_of(heard.num_frames)
        return Outputs(None, heard.num_frames, heard.hidden, said, [self.sure] * len(said))

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best texts."""
        outputs = self.forward(*self.extract(waveforms))
        assert outputs.hypotheses is not None
        return [items[0][0] for items in outputs.hypotheses]
