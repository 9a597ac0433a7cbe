"""params.yaml as types: one frozen model per section, one section per stage.

Nothing else opens the file. Every field carries one sentence: what it is, its unit, and what a
larger value does.
"""

from __future__ import annotations

import difflib
import re
import warnings
import zoneinfo
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)

from distillery.credentials import line_with_credentials
from distillery.errors import ParamsError
from distillery.params.base import (
    CONFIGURED,
    INIT_TEACHER,
    NonNegativeFloat,
    PositiveFloat,
    Section,
)
from distillery.params.cache import CacheParams
from distillery.params.distill import DistillParams
from distillery.params.evaluate import EvaluateParams, LanguageModelParams
from distillery.params.objective import NUMBER_TAG, SCHEDULE_TAG
from distillery.params.prepare import PrepareParams
from distillery.params.register import RegisterParams
from distillery.params.studies import CurveParams, TeacherCandidatesParams
from distillery.params.teacher import TeacherParams, TrainedTeacherParams

PARAMS_FILE = "params.yaml"
WHERE_PASSWORDS_GO = (
    "leave it out there: an MLflow server's goes into MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN), PostgreSQL's into ~/.pgpass"
)


def _known_timezone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError("no such time zone; UTC never skips or repeats an hour")
    return name


# --- prepare -----------------------------------------------------------------------------------


# --- models ------------------------------------------------------------------------------------


# --- training ----------------------------------------------------------------------------------


# --- distill -----------------------------------------------------------------------------------


class RetrainingParams(Section):
    """Settings of `make retrain` and `make schedule`, which are no stage."""

    cron: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] = "0 3 * * *"
    """When `make schedule` retrains: minute, hour, day of month, month, day of week."""
    timezone: Annotated[str, AfterValidator(_known_timezone)] = "UTC"
    """Whose clock `cron` means; outside UTC one hour of the year comes twice and one never."""
    force: bool = False
    """Whether to run although nothing is new: aliases are followed, and the results registered."""
    pull: bool = True
    """Whether to get from DVC's remote what dvc.lock names and the workspace lacks."""
    push: bool = True
    """Whether to send new data, cache and models to DVC's remote."""
    commit: bool = False
    """Whether to commit dvc.lock to Git, and nothing else, after a run that changed it."""
    timeout_hours: PositiveFloat = 24.0
    """A run that takes longer is stopped; the next goes on with what is done."""
    transfer_timeout_minutes: PositiveFloat = 60.0
    """One pull or push that takes longer is stopped and counts as failed."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a failed pull or push is tried again; a failed stage never is."""
    retry_delay_seconds: NonNegativeFloat = 30.0
    """Wait before each such retry, in seconds."""


# pydantic's metaclass has a method of the name that our last stage bears.
warnings.filterwarnings("ignore", 'Field name "register" in "Params" shadows')


class Params(Section):
    """The whole of params.yaml."""

    prepare: PrepareParams
    teacher: TeacherParams = TrainedTeacherParams()
    cache: CacheParams = CacheParams()
    distill: DistillParams
    evaluate: EvaluateParams = EvaluateParams()
    register: RegisterParams = RegisterParams()
    curve: CurveParams = CurveParams()
    language_model: LanguageModelParams = LanguageModelParams()
    teacher_candidates: TeacherCandidatesParams = TeacherCandidatesParams()
    retraining: RetrainingParams = RetrainingParams()

    @property
    def curve_students(self) -> list[str]:
        """The students whose curves `make curve` draws."""
        return list(self.curve.students or self.distill.students)

    @property
    def pilot_student(self) -> str:
        """The student that ranks teachers in `make teachers`."""
        return self.teacher_candidates.pilot.student or next(iter(self.distill.students))

    @property
    def all_candidates(self) -> dict[str, TeacherParams]:
        """The teachers that `make teachers` compares: the configured one, then its candidates.

        A candidate with the settings of the configured one takes its place.
        """
        named = self.teacher_candidates.teachers
        if any(self.is_configured(settings) for settings in named.values()):
            return dict(named)
        return {CONFIGURED: self.teacher, **named}

    def is_configured(self, teacher: TeacherParams) -> bool:
        """Return whether these settings make the teacher that the stage `teacher` makes."""
        own, theirs = (item.model_dump(exclude={"allow_poor"}) for item in (self.teacher, teacher))
        return own == theirs

    @model_validator(mode="after")
    def _curves_of_known_students(self) -> Params:
        known = list(self.distill.students)
        if unknown := [name for name in self.curve_students if name not in known]:
            raise ValueError(
                f"curve.students: {unknown[0]!r} is no student, expected some of {known}; correct "
                "it, or add it to distill.students"
            )
        return self

    @model_validator(mode="after")
    def _pilots_learn(self) -> Params:
        name, known = self.pilot_student, list(self.distill.students)
        if name not in known:
            raise ValueError(
                f"teacher_candidates.pilot.student: {name!r} is no student, expected one of "
                f"{known}; correct it, or add it to distill.students"
            )
        named = self.teacher_candidates.teachers
        if named and not self.distill.objective_of(name).uses_teacher:
            raise ValueError(
                f"teacher_candidates.pilot.student: {name!r} ignores its teacher, for its "
                "teacher_share is 0, so it cannot rank teachers; name another student"
            )
        return self

    @model_validator(mode="after")
    def _decodings_to_compare(self) -> Params:
        limit = self.distill.filter.max_disagreement
        if limit is not None and self.cache.payload.num_hypotheses == 1:
            raise ValueError(
                f"distill.filter.max_disagreement is {limit:g}, but the cache keeps one decoding; "
                "set cache.payload.num_hypotheses to 2 or more, or max_disagreement to null"
            )
        return self

    @model_validator(mode="after")
    def _decodings_that_can_disagree(self) -> Params:
        if self.distill.filter.max_disagreement is not None and self.language_model.for_teacher:
            raise ValueError(
                "distill.filter.max_disagreement compares the best path with the best of several "
                "hypotheses, but with language_model.for_teacher both are what the language model "
                "chose; set one of them to null or false"
            )
        return self

    @model_validator(mode="after")
    def _some_student_streams(self) -> Params:
        chunk = self.evaluate.stream_chunk_seconds
        default = EvaluateParams.model_fields["stream_chunk_seconds"].default
        types = [student.architecture.type for student in self.distill.students.values()]
        if chunk != default and "causal_conv" not in types:
            raise ValueError(
                f"evaluate.stream_chunk_seconds is {chunk:g}, but no student streams; remove it, "
                "or add a student of architecture causal_conv"
            )
        return self

    @model_validator(mode="after")
    def _teachers_layers_fit(self) -> Params:
        for name, student in self.distill.students.items():
            if student.init != INIT_TEACHER or self.teacher.kind != "trained":
                continue
            own, theirs = student.architecture.type, self.teacher.architecture.type
            if own != theirs:
                raise ValueError(
                    f"distill.students.{name}: init is {INIT_TEACHER!r}, but the student is a "
                    f"{own} and the teacher a {theirs}; give both one architecture, or remove init"
                )
            if self.distill.features_of(name) != self.teacher.features:
                raise ValueError(
                    f"distill.students.{name}: init is {INIT_TEACHER!r}, but the student's "
                    "features differ from the teacher's; copy teacher.features into the student's "
                    "features, or remove init"
                )
        return self

    @model_validator(mode="after")
    def _rates_fit(self) -> Params:
        if not isinstance(self.teacher, TrainedTeacherParams):
            return self  # training compares with the cache
        teacher_shift = self.teacher.features.hop_seconds * self.teacher.architecture.time_reduction
        for name, student in self.distill.students.items():
            shift = self.distill.features_of(name).hop_seconds * student.architecture.time_reduction
            ratio = shift / teacher_shift
            objective = self.distill.objective_of(name)
            faces_frames = objective.uses_frames or objective.uses_hidden
            if faces_frames and (ratio < 1 - 1e-6 or abs(ratio - round(ratio)) > 1e-6):
                raise ValueError(
                    f"distill.students.{name}: one frame per {shift * 1000:g} ms is no whole "
                    f"multiple of the teacher's {teacher_shift * 1000:g} ms; losses by frame need "
                    "one. Change time_reduction, or set frame.weight and hidden.weight to 0"
                )
        return self

    @model_validator(mode="after")
    def _the_cache_keeps_what_students_learn(self) -> Params:
        payload = self.cache.payload
        for name in self.distill.students:
            objective = self.distill.objective_of(name)
            wanted = objective.sequence.num_hypotheses
            if objective.uses_sequence and wanted > payload.num_hypotheses:
                raise ValueError(
                    f"distill.students.{name}: learns from {wanted} hypotheses, the cache keeps "
                    f"{payload.num_hypotheses}; set cache.payload.num_hypotheses to {wanted} or "
                    "more, or sequence.num_hypotheses to less"
                )
            if objective.uses_frames and payload.log_probs == "none":
                raise ValueError(
                    f"distill.students.{name}: learns frames of the teacher, but "
                    "cache.payload.log_probs is 'none'; set it to auto, or frame.weight to 0"
                )
            for layer in objective.hidden.layers.values() if objective.uses_hidden else ():
                if layer not in payload.hidden_layers:
                    kept = [*payload.hidden_layers, layer]
                    raise ValueError(
                        f"distill.students.{name}: learns hidden layer {layer!r} of the teacher, "
                        f"which the cache does not keep; set cache.payload.hidden_layers to "
                        f"[{', '.join(kept)}], or remove it from hidden.layers"
                    )
        return self


def load(path: Path) -> Params:
    """Read params.yaml.

    Raises:
        ParamsError: the file is missing or no YAML mapping, a URL in it holds a password, or keys
            are unknown, of the wrong type or out of range; the message lists all of them with
            their paths.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if line := line_with_credentials(text):  # before anything could quote it
            raise ParamsError(
                f"{path}, line {line}: a URL holds a user, password or key, which would stand in "
                f"Git and in every run's artifacts; {WHERE_PASSWORDS_GO}"
            )
        raw = yaml.safe_load(text)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; copy one from examples/") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: holds {type(raw).__name__}, expected sections such as prepare:")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in _explain(error))
        raise ParamsError(
            f"{path}: {error.error_count()} setting(s) cannot be used; "
            f"correct these and run again\n{lines}"
        ) from None


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"] if part not in _UNION_TAGS)
        if item["type"] == "extra_forbidden":
            line = f"{path}: unknown setting{_suggestion(item['loc'])}"
        elif item["type"] == "missing":
            line = f"{path}: missing, and has no default"
        else:
            message = re.sub(r"^Value error, ", "", item["msg"])
            found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r})"
            line = f"{path}: {message}{found}" if path else message
        lines.append(line)
    return lines


def _suggestion(location: tuple[Any, ...]) -> str:
    known = set(Params.model_fields)
    sections = [Section]
    for section in sections:
        sections.extend(section.__subclasses__())
        known.update(section.model_fields)
    known.discard(str(location[-1]))  # it is known elsewhere
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


_UNION_TAGS = {
    NUMBER_TAG,
    SCHEDULE_TAG,
    "conv_bilstm",
    "conformer",
    "separable_conv",
    "causal_conv",
    "crnn",
    "trained",
    "registry",
    "torchaudio",
    "transformers",
    "onnx",
    "fine_tuned",
    "single",
    "ensemble",
}
