"""What students are trained towards: the terms of the loss, and how their weights change."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from distillery.params.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Section,
)


class Schedule(Section):
    """A number that changes while a student trains; progress is the share of all steps taken."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )

    start: NonNegativeFloat
    """Value up to `from`."""
    end: NonNegativeFloat
    """Value after `until`."""
    shape: Literal["linear", "cosine"] = "linear"
    """How it goes from one to the other: evenly, or slowly at both ends."""
    from_: Fraction = Field(0.0, alias="from")
    """Progress at which it begins to change; later keeps the start for longer."""
    until: Fraction = 1.0
    """Progress at which it has changed; later changes more slowly."""

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Schedule:
        if self.from_ >= self.until:
            raise ValueError(f"from {self.from_:g} is not below until {self.until:g}")
        return self


def _number_or_schedule(value: object) -> str:
    return "schedule" if isinstance(value, dict | Schedule) else "number"


Scheduled = Annotated[
    Annotated[NonNegativeFloat, Tag("number")] | Annotated[Schedule, Tag("schedule")],
    Discriminator(_number_or_schedule),
]
"""A number, or one that changes while a student trains."""


def peak(value: float | Schedule) -> float:
    """Return the highest value that a number or a schedule takes."""
    return max(value.start, value.end) if isinstance(value, Schedule) else value


def lowest(value: float | Schedule) -> float:
    """Return the lowest value that a number or a schedule takes."""
    return min(value.start, value.end) if isinstance(value, Schedule) else value


class FrameLossParams(Section):
    """A loss between teacher and student frame by frame."""

    type: Literal["kl", "logit_mse"] = "kl"
    """Kullback-Leibler divergence with temperature, or mean squared error of the outputs."""
    weight: Scheduled = 1.0
    """Weight inside the teacher's share, or its schedule; 0 switches the term off."""
    temperature: PositiveFloat = 2.0
    """Softens both distributions of `kl`; higher shows more of the unlikely tokens."""
    blank_mode: Literal["all", "nonblank", "symmetric", "trim", "threshold"] = "symmetric"
    """Frames that count: all; the teacher's non-blank ones; these and `dilation` frames beside
    them; from the first of them to the last; or those less blank than `blank_threshold`."""
    dilation: NonNegativeInt = 1
    """Frames kept on each side of a non-blank one in blank mode `symmetric`."""
    blank_threshold: PositiveFraction = 0.95
    """A frame counts in blank mode `threshold` if the teacher's blank is less probable than this;
    larger keeps more."""
    weighting: Literal["uniform", "confidence"] = "uniform"
    """All frames that count do so alike, or by the probability of the teacher's likeliest token."""
    delay_frames: Annotated[int, Field(ge=0, le=100)] = 0
    """Most frames that a student may lag behind its teacher; each utterance takes the delay of the
    lowest loss, for students that stream; every frame more costs another pass over the loss."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> FrameLossParams:
        readers = {
            "temperature": ("type", "kl"),
            "dilation": ("blank_mode", "symmetric"),
            "blank_threshold": ("blank_mode", "threshold"),
        }
        for name, (setting, value) in readers.items():
            found, default = getattr(self, name), type(self).model_fields[name].default
            if found != default and getattr(self, setting) != value:
                raise ValueError(
                    f"{name} is {found:g}, but only {setting} {value!r} reads it, and {setting} "
                    f"is {getattr(self, setting)!r}; remove one of the two"
                )
        return self


class SequenceLossParams(Section):
    """CTC on the teacher's hypotheses, and on transcripts in their place."""

    weight: Scheduled = 1.0
    """Weight inside the teacher's share, or its schedule; 0 switches the term off."""
    num_hypotheses: PositiveInt = 1
    """Hypotheses to learn from: 1 is the best path, more are the likeliest texts, each by its
    score; at most cache.payload.num_hypotheses, and every one costs a CTC loss."""
    temperature: PositiveFloat = 1.0
    """Softens the scores of several hypotheses; higher brings their weights closer together."""
    where_transcribed: Literal["transcript", "teacher"] = "transcript"
    """What is learnt from where an utterance has a transcript that counts: this, which errs less,
    or what the teacher made of it all the same."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> SequenceLossParams:
        if self.temperature != 1.0 and self.num_hypotheses == 1:
            raise ValueError(
                f"temperature is {self.temperature:g}, but one hypothesis has no scores to soften; "
                "set num_hypotheses to 2 or more, or remove it"
            )
        return self


class HiddenLossParams(Section):
    """A loss between hidden states of teacher and student, behind learnt projections."""

    layers: dict[str, str] = {}
    """Student layer: teacher layer, `last` being what the output layer reads; where
    cache.payload.hidden_layers names some, the latter is among them. None switches the term off."""
    type: Literal["l1_cosine", "mse"] = "l1_cosine"
    """Absolute error plus cosine distance, or mean squared error."""
    weight: Scheduled = 1.0
    """Weight inside the teacher's share, or its schedule; 0 switches the term off."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> HiddenLossParams:
        _refuse_unread(self)
        return self


class IntermediateParams(Section):
    """CTC heads on hidden layers of the student, thrown away after training."""

    layers: tuple[str, ...] = ()
    """Student layers that get a head; none switches the term off."""
    weight: Scheduled = 0.3
    """Weight of the heads' mean loss beside the whole of the output's, or its schedule; 0 switches
    the term off."""

    @model_validator(mode="after")
    def _all_settings_count(self) -> IntermediateParams:
        _refuse_unread(self)
        if repeated := [name for name in self.layers if self.layers.count(name) > 1]:
            raise ValueError(f"layers names {repeated[0]!r} more than once; one head is enough")
        return self


def _refuse_unread(section: HiddenLossParams | IntermediateParams) -> None:
    if section.layers:
        return
    for name, field in type(section).model_fields.items():
        if getattr(section, name) != field.default:
            raise ValueError(f"{name} is set, but layers names none; name some, or remove {name}")


class ObjectiveParams(Section):
    """(1 - share) x CTC(text) + share x (frame + sequence + hidden), and heads with the same."""

    teacher_share: Scheduled = 0.5
    """Lambda, or its schedule: 0 ignores the teacher, 1 needs no transcripts at all."""
    frame: FrameLossParams = FrameLossParams()
    """The frame-wise term."""
    sequence: SequenceLossParams = SequenceLossParams()
    """The sequence-wise term."""
    hidden: HiddenLossParams = HiddenLossParams()
    """The term of hidden states."""
    intermediate: IntermediateParams = IntermediateParams()
    """Heads on hidden layers."""

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher counts at any time."""
        return peak(self.teacher_share) > 0

    @property
    def uses_transcripts(self) -> bool:
        """Whether transcripts count at any time."""
        return lowest(self.teacher_share) < 1

    @property
    def uses_frames(self) -> bool:
        """Whether the frame-wise term counts at any time."""
        return self.uses_teacher and peak(self.frame.weight) > 0

    @property
    def uses_sequence(self) -> bool:
        """Whether the sequence-wise term counts at any time."""
        return self.uses_teacher and peak(self.sequence.weight) > 0

    @property
    def uses_hidden(self) -> bool:
        """Whether the term of hidden states counts at any time."""
        return self.uses_teacher and bool(self.hidden.layers) and peak(self.hidden.weight) > 0

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """The teacher's hidden layers that are learnt from at any time, each once."""
        return tuple(dict.fromkeys(self.hidden.layers.values())) if self.uses_hidden else ()

    @property
    def uses_heads(self) -> bool:
        """Whether heads on hidden layers are trained at any time."""
        return bool(self.intermediate.layers) and peak(self.intermediate.weight) > 0

    @model_validator(mode="after")
    def _a_share_is_at_most_one(self) -> ObjectiveParams:
        if (highest := peak(self.teacher_share)) > 1:
            raise ValueError(f"teacher_share reaches {highest:g}, expected 0 to 1")
        return self

    @model_validator(mode="after")
    def _some_term_counts(self) -> ObjectiveParams:
        if not self.uses_teacher or self.uses_frames or self.uses_sequence:
            return self
        if not self.uses_hidden:
            raise ValueError(
                "teacher_share is above 0 but frame.weight and sequence.weight are both 0, and "
                "hidden.layers names none that counts"
            )
        if not self.uses_transcripts:
            raise ValueError(
                "teacher_share is 1 and hidden states alone count, which teach the output layer "
                "nothing; set frame.weight or sequence.weight above 0, or teacher_share below 1"
            )
        return self


def scheduled(objective: ObjectiveParams) -> list[str]:
    """Return the settings of an objective that change while a student trains."""
    values = {
        "teacher_share": objective.teacher_share,
        **{
            f"{name}.weight": getattr(objective, name).weight
            for name in ("frame", "sequence", "hidden", "intermediate")
        },
    }
    return [name for name, value in values.items() if isinstance(value, Schedule)]
