"""What the models of a curve reach on the test split, and how students and controls compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from distillery.data.manifest import PreparedData
from distillery.data.workspace import TEACHER
from distillery.evaluate.comparison import Comparison, compare
from distillery.evaluate.curves import read_curves
from distillery.evaluate.evaluate import describe
from distillery.evaluate.listening import labelled_test_rows, predict
from distillery.evaluate.models import FOLDERS, TrainedModel
from distillery.evaluate.rates import Rates, rates
from distillery.evaluate.summary import TestData
from distillery.params.evaluate import EvaluateParams
from distillery.params.whole import Params
from distillery.studies.data_curve import Amount, amounts, models_of, percent
from distillery.teachers.kinds import load_teacher


@dataclass(frozen=True)
class SeedFigures:
    """What a student or control reached as it was trained from one seed."""

    seed: int
    steps: int
    """Optimiser steps of its training."""
    wer: float
    """Word error rate, as a fraction."""


@dataclass(frozen=True)
class CurveFigures:
    """What a student or control reached on one share of the data."""

    rates: Rates
    """Means over its seeds."""
    by_seed: tuple[SeedFigures, ...]
    """The same of each seed."""


@dataclass(frozen=True)
class ShareResult:
    """One student on one share of the training data."""

    name: str
    """The student's."""
    amount: Amount
    """How much data the share holds."""
    gain: Comparison
    """The student beside its control and the teacher."""
    student: CurveFigures
    control: CurveFigures | None
    """None where none was trained."""

    @property
    def by_role(self) -> dict[str, CurveFigures]:
        """The figures of the control, if there is one, and of the student."""
        control = {} if self.control is None else {"control": self.control}
        return {**control, "student": self.student}


@dataclass(frozen=True)
class CurveResults:
    """All figures of the curves; rates and gains are fractions."""

    confidence: float
    """Coverage of the intervals."""
    seeds: tuple[int, ...]
    """What every student and control was trained from."""
    data: TestData
    """What they were scored on."""
    teacher: Rates
    """The same at every amount of data."""
    points: tuple[ShareResult, ...]
    """By student, then by share, smallest first."""


def score(root: Path, data: PreparedData, settings: Params) -> CurveResults:
    """Return what all models of the curves reach on the test split.

    Raises:
        CorpusError: no test utterance has a transcript with a word in it, or a share is unfit.
        ModelError: a model is missing or damaged, or made for another sample rate.
        StageError: a learning curve is missing or damaged.
    """
    rows = labelled_test_rows(data)
    models = models_of(settings)
    places = {TrainedModel("teacher", None): root / TEACHER}
    places |= {model.trained: model.folder(root) for model in models}
    recognisers = {trained: load_teacher(place) for trained, place in places.items()}
    for recogniser in recognisers.values():
        recogniser.check_sample_rate(data.sample_rate_hz)
    predictions, _ = predict(data, rows, recognisers, settings.evaluate.stream_chunk_seconds)
    steps = {model.trained: read_curves(model.learning_curve(root))[-1].step for model in models}
    shares, seeds = amounts(data, settings), settings.distill.seeds
    described = describe(rows, data.unit_of("test"))
    return summarise(predictions, steps, shares, described, seeds, settings.evaluate)


def summarise(
    predictions: pd.DataFrame,
    steps: Mapping[TrainedModel, int],
    shares: Sequence[Amount],
    data: TestData,
    seeds: Sequence[int],
    params: EvaluateParams,
) -> CurveResults:
    """Return all figures of the curves.

    Args:
        predictions: of the teacher and of all models, under the names of `CurveModel.trained`.
        steps: optimiser steps that each model was trained for.
        shares: what each share of the training data holds.
        data: what the predictions are of.
        seeds: what every student and control was trained from.
        params: settings of the stage `evaluate`.
    """
    of_teacher = predictions[predictions["model"] == "teacher"]
    folder = f"{FOLDERS['student']}/"
    students = dict.fromkeys(
        trained.model.removeprefix(folder).rpartition("@")[0]
        for trained in steps
        if trained.model.startswith(folder)
    )
    points = []
    for student in students:
        for share in shares:
            suffix = f"@{percent(share.fraction)}"
            keys = {role: f"{FOLDERS[role]}/{student}{suffix}" for role in ("student", "control")}
            here = predictions[predictions["model"].isin(keys.values())]
            same_names = here.assign(model=here["model"].str.removesuffix(suffix))
            figures = {
                role: _figures(here[here["model"] == key], key, steps, params)
                for role, key in keys.items()
                if (here["model"] == key).any()
            }
            gain = compare(student, pd.concat([of_teacher, same_names]), params, data.unit)
            points.append(
                ShareResult(student, share, gain, figures["student"], figures.get("control"))
            )
    return CurveResults(
        params.confidence, tuple(seeds), data, rates(of_teacher, params), tuple(points)
    )


def _figures(
    scored: pd.DataFrame, key: str, steps: Mapping[TrainedModel, int], params: EvaluateParams
) -> CurveFigures:
    by_seed = []
    for seed in map(int, scored["seed"].unique()):
        wer = rates(scored[scored["seed"] == seed], params).wer.value
        by_seed.append(SeedFigures(seed, steps[TrainedModel(key, seed)], wer))
    return CurveFigures(rates(scored, params), tuple(by_seed))
