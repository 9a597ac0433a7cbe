"""The section `distill`: the students, what they hear, and what they learn from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from distillery.files import Json
from distillery.params.augmentation import AugmentationParams
from distillery.params.base import (
    INIT_REGISTRY,
    INIT_TEACHER,
    REGISTRY_PATTERN,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    StudentName,
)
from distillery.params.models import (
    CharacterTokens,
    FeatureParams,
    StudentArchitecture,
    StudentTokens,
    SubwordTokens,
    TeacherTokens,
)
from distillery.params.objective import ObjectiveParams, scheduled
from distillery.params.training import TrainingParams


class FilterParams(Section):
    """Which training utterances the teacher misheard so grossly that nobody should learn them.

    The defaults drop the worst few only, which is where a filter pays: in Distil-Whisper's ablation
    (Gandhi et al. 2023, table 10) a limit of 80 % gives nearly all that one of 10 % gives.
    """

    enabled: bool = True
    """Whether the teacher's hypotheses are filtered at all."""
    max_wer: NonNegativeFloat = 0.8
    """With a transcript: most word errors against it (character errors where prepare.unit is the
    character), as a fraction; larger drops less."""
    min_confidence: Fraction = 0.6
    """Without one: least geometric mean of the best path's probabilities; larger drops more."""
    max_repeats: PositiveInt = 5
    """Without one: how often the same words (or characters, likewise) may stand in a row; larger
    drops less."""
    min_characters_per_second: NonNegativeFloat = 0.5
    """Without one: least characters, spaces included; above 0, an empty one is dropped."""
    max_characters_per_second: PositiveFloat = 40.0
    """Without one: most characters, spaces included; larger drops less."""
    max_disagreement: NonNegativeFloat | None = None
    """Without one: most character errors of the best path against the best of several hypotheses,
    as a fraction; null does not compare, a number needs cache.payload.num_hypotheses above 1."""

    @model_validator(mode="after")
    def _some_hypothesis_can_pass(self) -> FilterParams:
        low, high = self.min_characters_per_second, self.max_characters_per_second
        if low >= high:
            raise ValueError(
                f"min_characters_per_second {low:g} is not below max_characters_per_second {high:g}"
            )
        return self

    @model_validator(mode="after")
    def _no_threshold_without_a_filter(self) -> FilterParams:
        changed = [
            name
            for name, field in FilterParams.model_fields.items()
            if name != "enabled" and getattr(self, name) != field.default
        ]
        if not self.enabled and changed:
            raise ValueError(
                f"enabled is false, so {', '.join(changed)} would not be read; remove it, or set "
                "enabled to true"
            )
        return self


class StudentParams(Section):
    """One named student."""

    architecture: StudentArchitecture
    """The network."""
    objective: ObjectiveParams | None = None
    """Its own objective; null takes distill.objective."""
    features: FeatureParams | None = None
    """What it hears; null takes distill.features."""
    tokens: StudentTokens = CharacterTokens()
    """What it and its control write texts in."""
    init: Annotated[str, Field(pattern=f"^({INIT_TEACHER}|{REGISTRY_PATTERN})$")] | None = None
    """First weights: null draws random ones; `teacher` takes evenly spaced layers of a teacher of
    the same architecture, and its control starts from random ones; models:/NAME@ALIAS or
    models:/NAME/VERSION goes on from a registered student, and so does its control."""

    @model_serializer(mode="wrap")
    def _leave_out_characters(self, handler: SerializerFunctionWrapHandler) -> Json:
        """Trainings are named by their settings: with characters as before there were others."""
        content: Json = handler(self)
        is_named = not isinstance(self.tokens, CharacterTokens)
        return {name: value for name, value in content.items() if is_named or name != "tokens"}

    @property
    def registered_init(self) -> str | None:
        """The registered student that this one and its control go on from, if there is one."""
        return self.init if (self.init or "").startswith(INIT_REGISTRY) else None

    @property
    def reads_teacher(self) -> bool:
        """Whether the teacher itself is read, beside what is cached of it: weights or tokens."""
        has_its_tokens = isinstance(self.tokens, TeacherTokens) and self.registered_init is None
        return self.init == INIT_TEACHER or has_its_tokens


class StudentTrainingParams(TrainingParams):
    """The training of every student and control: one thread each, for they run side by side."""

    num_threads: PositiveInt = 1
    """CPU threads of each; fixed because sums, and so the last bits of the weights, depend on it.
    Two trainings of one thread make 1.4 times the steps of one of two threads."""


class DistillParams(Section):
    """Settings of the stage `distill`."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Each student and its control are trained once from each; several show the spread."""
    objective: ObjectiveParams = ObjectiveParams()
    """What students are trained towards."""
    filter: FilterParams = FilterParams()
    """Which of the teacher's hypotheses are fit to learn from."""
    features: FeatureParams = FeatureParams(num_mels=40)
    """What students hear."""
    augmentation: AugmentationParams = AugmentationParams()
    """How what they hear is changed in every step."""
    training: StudentTrainingParams = StudentTrainingParams()
    """How students are trained."""
    generations: PositiveInt = 1
    """1 learns from the teacher alone; with more, the same student is trained anew so often, each
    generation from the outputs of the one before, and the last one is kept."""
    control: bool | Literal["auto"] = True
    """Also train each student without the teacher, same seed and steps, to measure the gain; it
    needs transcripts, and `auto` trains it where there are some."""
    fall_back: Annotated[bool, Field(exclude=True)] = True  # changes no training
    """A student whose control has a lower WER on validation takes its control's weights, so that
    nothing is kept that the teacher made worse; where no control is trained, nothing changes."""
    students: Annotated[dict[StudentName, StudentParams], Field(min_length=1)]
    """The students by name."""

    @model_validator(mode="after")
    def _every_seed_once(self) -> DistillParams:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} hold one twice; name each once")
        return self

    @model_validator(mode="after")
    def _seeds_stand_in_one_place(self) -> DistillParams:
        seed = self.training.seed
        if seed != TrainingParams.model_fields["seed"].default:
            raise ValueError(
                f"training.seed is {seed}, but students take their seeds from distill.seeds; "
                f"remove it and set seeds to [{seed}]"
            )
        return self

    @model_validator(mode="after")
    def _schedules_have_an_end(self) -> DistillParams:
        if self.training.known_epochs is not None:
            return self
        for name, student in self.students.items():
            changing = scheduled(self.objective_of(name))
            if changing:
                where = f"students.{name}.objective" if student.objective else "objective"
                raise ValueError(
                    f"{where}.{changing[0]} changes with the share of all steps taken, which is "
                    "unknown while training.num_epochs is auto: set num_epochs to a number, or "
                    f"{changing[0]} to one"
                )
        return self

    @model_validator(mode="after")
    def _streams_hear_no_future(self) -> DistillParams:
        for name, student in self.students.items():
            normalise = self.features_of(name).normalise
            if student.architecture.type == "causal_conv" and normalise != "running":
                raise ValueError(
                    f"students.{name}: causal_conv streams, but features.normalise is "
                    f"{normalise!r}, which reads the whole utterance first; give the student "
                    "features: {normalise: running}"
                )
        return self

    @model_validator(mode="after")
    def _subwords_are_not_the_teachers(self) -> DistillParams:
        for name, student in self.students.items():
            if isinstance(student.tokens, SubwordTokens) and self.objective_of(name).uses_frames:
                raise ValueError(
                    f"students.{name}: writes in subwords, and frame.weight is above 0, but what "
                    "the teacher says frame by frame is cached in characters; set frame.weight to "
                    "0 (sequence learns from its texts, hidden from its layers), or tokens to "
                    "{type: characters}"
                )
        return self

    @model_validator(mode="after")
    def _crops_have_frames_to_learn(self) -> DistillParams:
        for name in self.students if self.augmentation.crop else ():
            objective = self.objective_of(name)
            if not (objective.uses_frames or objective.uses_hidden):
                raise ValueError(
                    f"augmentation.crop is set, but students.{name} learns neither frames nor "
                    "hidden states of the teacher, and texts are not valid for a part of an "
                    "utterance; remove crop, or give the student frame.weight above 0 or "
                    "hidden.layers"
                )
        return self

    @model_validator(mode="after")
    def _some_student_has_a_teacher(self) -> DistillParams:
        learning = any(self.objective_of(name).uses_teacher for name in self.students)
        if self.generations > 1 and not learning:
            raise ValueError(
                f"generations is {self.generations}, but no student learns from a teacher: every "
                "teacher_share is 0; raise one, or set generations to 1"
            )
        return self

    def trains_control(self, num_transcripts: int) -> bool:
        """Return whether students get controls, where so many training utterances are transcribed.

        Args:
            num_transcripts: of the training split.
        """
        return num_transcripts > 0 if self.control == "auto" else bool(self.control)

    def for_seed(self, seed: int) -> DistillParams:
        """Return the settings of one of the seeds, as training reads them."""
        training = self.training.model_copy(update={"seed": seed})
        return self.model_copy(update={"seeds": (seed,), "training": training})

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """The teacher's hidden layers that some student learns from, each once, by name."""
        objectives = map(self.objective_of, self.students)
        return tuple(sorted({layer for item in objectives for layer in item.teacher_layers}))

    def objective_of(self, student: str) -> ObjectiveParams:
        """Return the objective of one student: its own, or the common one."""
        return self.students[student].objective or self.objective

    def features_of(self, student: str) -> FeatureParams:
        """Return what one student hears: its own features, or the common ones."""
        return self.students[student].features or self.features
