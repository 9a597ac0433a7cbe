"""How students and controls hear utterances otherwise than they were recorded."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, model_validator

from distillery.params.base import (
    NonEmptyText,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    Section,
    SpeedFactors,
    lowest_first,
)


class NoiseParams(Section):
    """Noise added to whole utterances."""

    probability: PositiveFraction = 0.5
    """Share of the utterances that get some, drawn anew in every epoch."""
    snr_db: Annotated[tuple[float, float], AfterValidator(lowest_first)] = (5.0, 20.0)
    """Least and most decibels of the speech above the noise; lower is louder noise."""
    folder: NonEmptyText | None = None
    """Recordings to draw from, with all folders below; null generates coloured noise."""


class GainParams(Section):
    """Loudness of whole utterances."""

    probability: PositiveFraction = 0.5
    """Share of the utterances that become louder or softer, drawn anew in every epoch."""
    gain_db: Annotated[tuple[float, float], AfterValidator(lowest_first)] = (-6.0, 6.0)
    """Least and most decibels; positive is louder."""


class ReverberationParams(Section):
    """Rooms that utterances are heard in."""

    probability: PositiveFraction = 0.5
    """Share of the utterances that get a room, drawn anew in every epoch."""
    rt60_seconds: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(lowest_first)] = (
        0.1,
        0.5,
    )
    """Of generated rooms: least and most time in which sound falls by 60 dB; longer smears more."""
    direct_db: Annotated[
        tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(lowest_first)
    ] = (5.0, 15.0)
    """Of generated rooms: least and most decibels of the direct sound above all echoes; near 0 and
    below, what is heard is late by a frame or so."""
    folder: NonEmptyText | None = None
    """Impulse responses to draw from, with all folders below; null generates them."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> ReverberationParams:
        for name in ("rt60_seconds", "direct_db"):
            default = type(self).model_fields[name].default
            if self.folder is not None and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is set, but impulse responses come from folder {self.folder!r}; "
                    f"remove {name}, or folder to generate them"
                )
        return self


class CropParams(Section):
    """Stretches cut out of utterances, of which the teacher's frames alone are learnt."""

    probability: PositiveFraction = 0.3
    """Share of the utterances that are cut, drawn anew in every epoch; a cut one's transcript and
    hypotheses do not count."""
    kept_fraction: Annotated[
        tuple[PositiveFraction, PositiveFraction], AfterValidator(lowest_first)
    ] = (0.5, 0.9)
    """Least and most that is kept, as a share of the utterance."""


class ConcatenateParams(Section):
    """Utterances joined two by two."""

    probability: PositiveFraction = 0.3
    """Share of the batches whose utterances are joined, drawn anew in every epoch."""


class AugmentationParams(Section):
    """What students and controls hear otherwise than it was recorded; null switches each off.

    Each says what it does to time, and so to the teacher's cached outputs. Masks on features are
    training.specaugment; copies at other speeds that the teacher hears, too, cache.speed_factors.
    """

    speed_factors: SpeedFactors = ()
    """Copies of the training audio at these speeds, such as [0.9, 1.1], that the teacher does not
    hear: its texts stand for them as they are, frames and hidden states stretched. Each adds the
    steps of one more pass to every epoch."""

    noise: NoiseParams | None = None
    """Time stays: targets stay valid."""
    gain: GainParams | None = None
    """Time stays: targets stay valid."""
    reverberation: ReverberationParams | None = None
    """Time stays, echoes follow the direct sound: targets stay valid."""
    crop: CropParams | None = None
    """Targets are sliced at whole frames of the student."""
    concatenate: ConcatenateParams | None = None
    """Targets, hypotheses and transcripts are joined."""
    time_warp: Any = None
    """Refused: cached frames would face other audio than they were made from."""

    @model_validator(mode="after")
    def _time_is_not_warped(self) -> AugmentationParams:
        if self.time_warp is not None:
            raise ValueError(
                f"time_warp is {self.time_warp!r}, but time warping moves frames by amounts that "
                "change along an utterance, so cached teacher frames would face other audio than "
                "they were made from; remove it, and set cache.speed_factors (copies with teacher "
                "outputs of their own), speed_factors here (copies that stretch them) or "
                "training.specaugment (masks)"
            )
        return self

    @property
    def changes_audio(self) -> bool:
        """Whether features must be made anew in every step; those of copies are made once."""
        names = (name for name in type(self).model_fields if name != "speed_factors")
        return any(getattr(self, name) is not None for name in names)
