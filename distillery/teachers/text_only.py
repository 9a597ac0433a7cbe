"""What teachers have in common whose recogniser ran, or runs, elsewhere: texts and nothing else.

A text belongs to a recording, which is known by its audio key. Copies at another speed have the
text of the recording that they are made from, so such a teacher is given that one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillery.data.audio import to_int16
from distillery.data.features import pad
from distillery.data.manifest import audio_key
from distillery.data.text import Vocabulary
from distillery.files import Json
from distillery.models.base import check_layers, check_rate
from distillery.models.recogniser import Outputs
from distillery.teachers.written import Spelt

NOTHING = Spelt((("", 0.0),), 0.0)
"""Of a recording that has no text: no hypothesis, which distill.filter drops."""


def key_of(waveform: np.ndarray) -> str:
    """Return the audio key of a prepared recording, float32 in [-1, 1) `(samples,)`."""
    return audio_key(to_int16(waveform))


class TextOnlyTeacher(ABC):
    """A teacher that gives texts of recordings; kinds say where they come from."""

    same_at_every_speed = True
    """Copies of a recording have its text; see `distillery.models.base.hears_originals`."""
    gives_frames = False
    num_parameters = 0
    """None of them is here."""
    frame_shift_seconds = 0.02
    """There are no frames; a number for those who compare rates before they look for frames."""
    layer_widths: Mapping[str, int] = {}

    def __init__(self, vocabulary: Vocabulary, sample_rate_hz: int) -> None:
        """Remember what it is for.

        Args:
            vocabulary: the students' tokens.
            sample_rate_hz: of the corpus.
        """
        self.vocabulary, self.sample_rate_hz = vocabulary, sample_rate_hz

    @property
    @abstractmethod
    def config(self) -> Json:
        """What config.json holds."""

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """SHA-256 over what stands for weights."""

    @abstractmethod
    def say(self, waveforms: Sequence[np.ndarray]) -> list[Spelt]:
        """Return what was, or is, written of each waveform `(samples,)`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the teacher into an existing folder; equal teachers give equal bytes."""

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio has the rate of the corpus that the teacher was prepared for.

        Raises:
            ModelError: it has another.
        """
        check_rate(self.sample_rate_hz, sample_rate_hz)

    def extract(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return waveforms `(batch, samples)`, zeros behind, and their lengths `(batch,)`."""
        return pad([torch.from_numpy(waveform) for waveform in waveforms])

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return the texts of a batch of waveforms `(batch, samples)`; see `Teacher`.

        Raises:
            ModelError: a hidden layer is asked for.
        """
        check_layers(self, layers)
        said = self.say([row[:n].numpy() for row, n in zip(inputs, lengths.tolist(), strict=True)])
        return Outputs(
            None,
            [0] * len(said),
            {},
            [list(item.hypotheses) for item in said],
            [item.confidence for item in said],
        )

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each waveform `(samples,)`, empty where there is none."""
        return [item.hypotheses[0][0] for item in self.say(waveforms)]
