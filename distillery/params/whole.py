"""The whole of params.yaml: what the flow, `register` and the comparisons of models need.

The flow loads it at its start, so that a mistake in any section, or between two, is told before a
stage has cost anything. A stage loads its own sections alone: see `stages`.
"""

from __future__ import annotations

import warnings

from pydantic import model_validator

from distillery.params.base import CONFIGURED
from distillery.params.cache import CacheParams
from distillery.params.distill import DistillParams
from distillery.params.evaluate import EvaluateParams
from distillery.params.file import Sections
from distillery.params.language_model import LanguageModelParams
from distillery.params.package import CardParams
from distillery.params.prepare import PrepareParams
from distillery.params.register import RegisterParams
from distillery.params.retraining import RetrainingParams
from distillery.params.rules import (
    check_decoder,
    check_hidden_transcripts,
    check_languages,
    check_mel_bands,
    check_streaming,
    check_students,
)
from distillery.params.studies import CurveParams, TeacherCandidatesParams
from distillery.params.teacher import TeacherParams, TrainedTeacherParams
from distillery.params.training import EveryTrainingParams

# pydantic's metaclass has a method of the name that our last stage bears.
warnings.filterwarnings("ignore", 'Field name "register" in "Params" shadows')


class Params(Sections):
    """All sections, one field each."""

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
    package: CardParams = CardParams()
    training: EveryTrainingParams = EveryTrainingParams()

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
    def _sections_fit(self) -> Params:
        check_students(self.distill, self.teacher, self.cache, self.language_model)
        check_streaming(self.evaluate, self.distill)
        check_languages(self.prepare, self.teacher)
        check_mel_bands(self.prepare, self.distill, self.teacher)
        check_decoder(self.register.decoder)
        check_hidden_transcripts(
            self.prepare, self.teacher, self.distill, self.language_model, self.register.decoder
        )
        return self
