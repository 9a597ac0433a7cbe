"""What a teacher is to the cache, the audit and the evaluation: one protocol for all kinds.

`Recogniser`, which every model trained here is, answers to it; so do the pre-trained ones and the
ensembles of distillery/teachers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from distillery.data.text import Vocabulary
from distillery.errors import ModelError
from distillery.files import Json
from distillery.models.recogniser import Outputs


class Teacher(Protocol):
    """What the cache, the audit and the evaluation ask of a teacher."""

    vocabulary: Vocabulary
    """The tokens that its students share."""
    sample_rate_hz: int
    """Of the waveforms that it is given, in hertz; one that hears other rates resamples itself."""

    @property
    def frame_shift_seconds(self) -> float:
        """Time from one output frame to the next, in seconds."""

    @property
    def num_parameters(self) -> int:
        """Trainable parameters."""

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Widths of the hidden layers that it can give; `last` is what the output layer reads."""

    @property
    def gives_frames(self) -> bool:
        """Whether it says something about `vocabulary` frame by frame; if not, it gives texts."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""

    @property
    def config(self) -> Json:
        """What config.json holds: `architecture`, and everything that happens to the audio."""

    def check_sample_rate(self, sample_rate_hz: int) -> None:
        """Make sure that audio of this rate is what the teacher was made for.

        Raises:
            ModelError: it is not.
        """

    def extract(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return one batch's inputs `(batch, …)` and their lengths `(batch,)`.

        Args:
            waveforms: float32 audio in [-1, 1) at `sample_rate_hz`, each `(samples,)`.

        Raises:
            ModelError: one is longer than the teacher can take.
        """

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        layers: Sequence[str] = (),
        precision: str = "fp32",
    ) -> Outputs:
        """Return what the teacher says about one batch.

        Args:
            inputs: of `extract`.
            lengths: of `extract`.
            layers: hidden layers wanted, of `layer_widths`.
            precision: arithmetic: fp32, bf16 or fp16.

        Raises:
            ModelError: it has no such layer.
        """

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """Return the best text of each waveform `(samples,)`, spelt as the corpus is."""

    def save(self, folder: Path) -> None:
        """Write the teacher into an existing folder; equal teachers give equal bytes."""


LoadTeacher = Callable[[Path, str], Teacher]
"""Loads a saved teacher from its folder onto a device, such as `cpu`."""


def check_rate(prepared_for_hz: int, sample_rate_hz: int) -> None:
    """Make sure that audio has the rate of the corpus that a pre-trained teacher was prepared for.

    Raises:
        ModelError: it has another.
    """
    if sample_rate_hz != prepared_for_hz:
        raise ModelError(
            f"model: prepared for audio of {prepared_for_hz} Hz, this has {sample_rate_hz} Hz; run "
            "make teacher again"
        )


def check_layers(teacher: Teacher, layers: Sequence[str]) -> None:
    """Make sure that a teacher has the hidden layers that somebody wants.

    Raises:
        ModelError: there is no such layer.
    """
    if unknown := [name for name in layers if name not in teacher.layer_widths]:
        raise ModelError(
            f"layer {unknown[0]!r}: unknown to this teacher, expected one of "
            f"{list(teacher.layer_widths)}"
        )


def hears_originals(teacher: Teacher) -> bool:
    """Return whether copies of a recording at other speeds have that recording's own text.

    So it is of teachers whose texts were written elsewhere: they are given the recording itself.
    """
    return bool(getattr(teacher, "same_at_every_speed", False))


def may_lack(teacher: Teacher) -> bool:
    """Return whether there may be recordings that a teacher knows nothing of."""
    return hasattr(teacher, "lacks")


def lacking(teacher: Teacher, waveforms: Sequence[np.ndarray]) -> list[bool]:
    """Return which recordings `(samples,)` a teacher knows nothing of; others hear all of them."""
    ask = getattr(teacher, "lacks", None)
    return [False] * len(waveforms) if ask is None else list(ask(waveforms))
