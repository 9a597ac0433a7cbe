"""The sections that each stage reads, so that a stage stands still for no others.

Stage `register` is missing: it logs the whole of params.yaml. Defaults are those of `whole.Params`.
"""

from __future__ import annotations

import warnings
from typing import Self

from pydantic import model_validator

from distillery.params.cache import CacheParams
from distillery.params.distill import DistillParams
from distillery.params.evaluate import EvaluateParams
from distillery.params.file import Sections
from distillery.params.language_model import LanguageModelParams
from distillery.params.package import CardParams
from distillery.params.prepare import PrepareParams
from distillery.params.register import RegisterParams
from distillery.params.rules import check_decoder, check_streaming, check_students
from distillery.params.teacher import TeacherParams, TrainedTeacherParams
from distillery.params.training import EveryTrainingParams

# pydantic's metaclass has a method of the name that our last stage bears.
warnings.filterwarnings(
    "ignore",
    'Field name "register" in "(Registry|Score|Package|FetchStage|EvaluateStage)Params" shadows',
)


class PrepareStageParams(Sections):
    """What the stage `prepare` reads: it warns where training a teacher has too little data."""

    prepare: PrepareParams
    teacher: TeacherParams = TrainedTeacherParams()


class FetchStageParams(Sections):
    """What the stage `fetch` reads: whoever may start from a registered model."""

    teacher: TeacherParams = TrainedTeacherParams()
    distill: DistillParams
    register: RegisterParams = RegisterParams()


class TeacherStageParams(Sections):
    """What the stage `teacher` reads."""

    teacher: TeacherParams = TrainedTeacherParams()
    training: EveryTrainingParams = EveryTrainingParams()


class CacheStageParams(Sections):
    """What the stage `cache` reads, and the commands that look after the cache.

    Of the students, which of the teacher's layers they learn from: DVC sees it by the file that the
    stage `fetch` writes.
    """

    cache: CacheParams = CacheParams()
    distill: DistillParams
    language_model: LanguageModelParams = LanguageModelParams()


class DistillStageParams(Sections):
    """What the stage `distill` reads: students, and what they learn from."""

    teacher: TeacherParams = TrainedTeacherParams()
    cache: CacheParams = CacheParams()
    distill: DistillParams
    language_model: LanguageModelParams = LanguageModelParams()
    training: EveryTrainingParams = EveryTrainingParams()

    @model_validator(mode="after")
    def _students_can_learn(self) -> Self:
        check_students(self.distill, self.teacher, self.cache, self.language_model)
        return self


class EvaluateStageParams(Sections):
    """What the stage `evaluate` reads: which models there are, and how they are measured."""

    distill: DistillParams
    evaluate: EvaluateParams = EvaluateParams()
    language_model: LanguageModelParams = LanguageModelParams()
    register: RegisterParams = RegisterParams()

    @model_validator(mode="after")
    def _some_student_streams(self) -> Self:
        check_decoder(self.register.decoder)
        check_streaming(self.evaluate, self.distill)
        return self


class RegistryParams(Sections):
    """What commands read that only ask MLflow's registry: where it is, and the model's name."""

    register: RegisterParams = RegisterParams()


class ScoreParams(Sections):
    """What `make score` reads: where the registry is, and how intervals are drawn."""

    register: RegisterParams = RegisterParams()
    evaluate: EvaluateParams = EvaluateParams()


class PackageParams(Sections):
    """What `make package` and `make page` read: the registry, intervals, and what a card says."""

    register: RegisterParams = RegisterParams()
    evaluate: EvaluateParams = EvaluateParams()
    package: CardParams = CardParams()
