"""One training run, of a teacher or of a student."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillery.params.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class SpecAugmentParams(Section):
    """SpecAugment without time warping (Park et al., 2019): frames stay where they are."""

    num_time_masks: NonNegativeInt = 2
    """Stretches of time hidden in each utterance."""
    max_time_fraction: Fraction = 0.1
    """Longest stretch, as a share of the utterance."""
    num_frequency_masks: NonNegativeInt = 2
    """Bands of mels hidden in each utterance."""
    max_frequency_fraction: Fraction = 0.2
    """Widest band, as a share of the mels."""


class TrainingParams(Section):
    """One training run, of a teacher or of a student."""

    seed: int = 0
    """Fixes initial weights, order, dropout and masks; students take theirs from distill.seeds."""
    num_epochs: PositiveInt = 40
    """Passes over the training split."""
    batch_seconds: PositiveFloat = 60.0
    """Audio in one batch, in seconds; larger is smoother and needs more memory."""
    learning_rate: PositiveFloat = 2e-3
    """Peak step size of AdamW."""
    weight_decay: NonNegativeFloat = 1e-2
    """AdamW's weight decay."""
    warmup_fraction: Fraction = 0.1
    """Share of the steps in which the step size rises to its peak; it then falls as a cosine."""
    max_gradient_norm: PositiveFloat = 5.0
    """Gradients are scaled down to this norm."""
    patience: PositiveInt | None = None
    """Epochs without a better validation WER after which training stops; null trains to the end."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass; auto takes bf16 where the hardware computes it, which is
    faster there, and fp32 elsewhere; losses stay fp32."""
    num_threads: PositiveInt = 2
    """CPU threads; fixed because sums, and so the last bits of the weights, depend on it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU if there is one."""
    max_unalignable_fraction: Annotated[Fraction, Field(exclude=True)] = 0.1  # changes no weight
    """Largest share of the texts that may need more frames than there are, and are left out of CTC;
    with more, training stops before its first step and names the hop_seconds that would do."""
    specaugment: SpecAugmentParams = SpecAugmentParams()
    """Masks on the features of the training split."""
