"""One training run, of a teacher or of a student."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from distillery.files import Json
from distillery.params.base import (
    Device,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)

AUTO = "auto"
"""`num_epochs` of a training that goes on until its validation has stopped improving."""
AUTO_AVERAGE_STEPS = 170
"""`average_steps` of auto: three epochs of AN4."""
COOLDOWN_FRACTION = 0.2
"""`cooldown_fraction` where no weights are averaged."""
CHOSEN_BY_EPOCHS = ("average_steps", "zero_output")
"""Settings that are one thing with auto and another with a number, where they say nothing."""
OF_AUTO = ("max_epochs", "min_epoch_steps", "warmup_steps", "cooldown_fraction")
"""Settings that a number of epochs leaves unread."""
OF_NUMBER = ("warmup_fraction",)
"""Settings that `auto` leaves unread."""
OF_ALL = ("checkpoint_seconds", "num_processes")
"""Settings of the section `training`, which somebody may look for under one training."""


def _kind_of_epochs(value: object) -> str:
    """Return what tells a number of epochs from `auto`."""
    return AUTO if isinstance(value, str) else "number"


Epochs = Annotated[
    Annotated[PositiveInt, Tag("number")] | Annotated[Literal["auto"], Tag(AUTO)],
    Discriminator(_kind_of_epochs),
]
"""A number of passes over the training split, or `auto`."""


class EveryTrainingParams(Section):
    """What is no part of any one training, and changes no result, or by rounding alone.

    DVC follows none of it: a section of its own, for it follows sections as a whole.
    """

    checkpoint_seconds: PositiveFloat = 120.0
    """Time since the last checkpoint of a training after which it writes one inside an epoch, in
    seconds: what a kill costs at most, but for one step. There is one after each epoch, too."""
    num_processes: PositiveInt = 1
    """Processes of this machine that train the teacher together, each its share of every batch and
    on a GPU of its own, or on CPUs; students are trained side by side instead."""


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
    num_epochs: Epochs = "auto"
    """Passes over the training split. auto goes on until validation has stopped improving
    (`patience`), and then lets the step size fall; a number lets it fall as a cosine from the
    start."""
    max_epochs: PositiveInt = 300
    """With auto: most epochs, the fall of the step size among them."""
    min_epoch_steps: NonNegativeInt = 50
    """With auto: steps between two validations, at least. An epoch of a small training split is
    several passes, so that validation, warm-up and average reach over as much training as they do
    where there is more."""
    batch_seconds: PositiveFloat = 60.0
    """Audio in one batch, in seconds; larger is smoother and needs more memory."""
    learning_rate: PositiveFloat = 2e-3
    """Peak step size of AdamW."""
    weight_decay: NonNegativeFloat = 1e-2
    """AdamW's weight decay."""
    warmup_fraction: Fraction = 0.1
    """With a number of epochs: share of the steps in which the step size rises to its peak."""
    warmup_steps: NonNegativeInt = 400
    """With auto: steps in which the step size rises to its peak, where it stays until validation
    has stopped improving."""
    cooldown_fraction: Fraction | None = None
    """With auto: then the step size falls to 0 as 1 - sqrt, over this share of the epochs so far;
    0 ends training at once. null is 0 where weights are averaged, which does the same, else 0.2."""
    max_gradient_norm: PositiveFloat = 5.0
    """Gradients are scaled down to this norm."""
    patience: PositiveInt | None = None
    """Epochs without a better validation WER after which training stops, null trains to the end.
    With auto the step size begins to fall then, and the rate is a mean over some epochs; null takes
    20, or a quarter of the epochs so far where that is more."""
    average_steps: NonNegativeInt | None = None
    """Validated and kept is a running average of the weights, which reaches about so many steps
    back; 0 takes the weights as they are. null takes 170 with auto, and 0 with a number."""
    zero_output: bool | None = None
    """The output layer starts at 0, so that no token is likelier than another, and not at random;
    null does so with auto. First weights that are taken from another model stay."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass; auto takes bf16 where the hardware computes it, which is
    faster there, and fp32 elsewhere; losses stay fp32."""
    num_threads: PositiveInt = 2
    """CPU threads; fixed because sums, and so the last bits of the weights, depend on it."""
    device: Device = "auto"
    """Where to train; auto takes a GPU if there is one, and trains students, seeds and controls on
    all GPUs side by side; cuda:1 takes the second of several alone."""
    max_unalignable_fraction: Annotated[Fraction, Field(exclude=True)] = 0.1  # changes no weight
    """Largest share of the texts that may need more frames than there are, and are left out of CTC;
    with more, training stops before its first step and names the hop_seconds that would do."""
    specaugment: SpecAugmentParams = SpecAugmentParams()
    """Masks on the features of the training split."""

    @property
    def known_epochs(self) -> int | None:
        """Passes over the training split; None where validation decides."""
        return None if self.num_epochs == "auto" else self.num_epochs

    @property
    def most_epochs(self) -> int:
        """Passes over the training split, at most."""
        return self.max_epochs if self.num_epochs == "auto" else self.num_epochs

    @property
    def averaged_steps(self) -> int:
        """About how many steps the average reaches back; 0: there is none."""
        if self.average_steps is None:
            return AUTO_AVERAGE_STEPS if self.num_epochs == AUTO else 0
        return self.average_steps

    @property
    def cooldown_share(self) -> float:
        """Share of the epochs so far in which the step size falls, with auto."""
        if self.cooldown_fraction is None:
            return 0.0 if self.averaged_steps else COOLDOWN_FRACTION
        return self.cooldown_fraction

    @property
    def starts_even(self) -> bool:
        """Whether the output layer starts at 0."""
        return self.num_epochs == AUTO if self.zero_output is None else self.zero_output

    @model_validator(mode="before")
    @classmethod
    def _told_elsewhere(cls, values: Any) -> Any:
        if isinstance(values, dict) and (found := [name for name in OF_ALL if name in values]):
            raise ValueError(
                f"{found[0]} is of no single training: write training: {{{found[0]}: …}} beside "
                "teacher and distill, and remove it here"
            )
        return values

    @model_validator(mode="after")
    def _no_setting_is_left_unread(self) -> Self:
        is_auto = self.num_epochs == AUTO
        fields = type(self).model_fields
        unread = [
            name
            for name in (OF_NUMBER if is_auto else OF_AUTO)
            if getattr(self, name) != fields[name].default
        ]
        if unread:
            instead = "a number" if is_auto else AUTO
            raise ValueError(
                f"num_epochs is {self.num_epochs}, so {', '.join(unread)} would not be read; "
                f"remove it, or set num_epochs to {instead}"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_read(self, handler: SerializerFunctionWrapHandler) -> Json:
        """With a number of epochs, settings are what they were before there was auto."""
        unread = [] if self.num_epochs == AUTO else list(OF_AUTO)
        unread += [name for name in CHOSEN_BY_EPOCHS if getattr(self, name) is None]
        content: Json = handler(self)
        return {name: value for name, value in content.items() if name not in unread}
