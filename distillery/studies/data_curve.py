"""WER against the amount of training data: what a share of it holds, and what is told at the end.

The teacher and its cached outputs are always those of all data; students and controls are trained
on a share of the training split, transcribed or not. What the axis shows is thus how much audio a
student needs of a teacher that is given. Every share takes as many steps as all data would
(`Distillation.pace`), so the amount of data is the only thing that differs along a curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from distillery.console import as_text, new_table
from distillery.data.audio import SECONDS_PER_HOUR
from distillery.data.manifest import PreparedData
from distillery.errors import CorpusError
from distillery.evaluate.comparison import compare
from distillery.evaluate.curves import read_curves
from distillery.evaluate.evaluate import describe
from distillery.evaluate.listening import labelled_test_rows, predict
from distillery.evaluate.models import FOLDERS, TrainedModel
from distillery.evaluate.rates import rates
from distillery.evaluate.records import Estimate
from distillery.evaluate.summary import TestData
from distillery.evaluate.tables import MISSING, title, with_interval
from distillery.files import write_bytes
from distillery.params.evaluate import EvaluateParams
from distillery.params.whole import Params
from distillery.prepare.splits import hash_fraction
from distillery.studies.plots import plot_data_curve
from distillery.teachers.saved import load_teacher
from distillery.tracking.curve_files import Point

CSV_FILE, PLOT_FILE = "curve.csv", "curve.png"
MODELS = "models/curve"
LEARNING_CURVE_FILE = "learning_curve.jsonl"
SALT = "curve"
ROLES = ("control", "student")
RATES = ("wer", "wer_sd", "wer_low", "wer_high", "cer", "cer_sd", "cer_low", "cer_high")
GAINS = ("gain_wer", "gain_wer_sd", "gain_wer_low", "gain_wer_high", "gap_closed")
Summary = Mapping[str, Any]


def percent(fraction: float) -> str:
    """Return a share in percent, `10` or `12.5`."""
    return f"{100 * fraction:g}"


def draw(data: PreparedData, fraction: float) -> PreparedData:
    """Return the data with a share of their training split; the other splits stay whole.

    Utterances are drawn by hash of their audio, so a smaller share lies inside every larger one,
    equal audio is drawn together, and data that come later move none that are there.

    Args:
        data: prepared data.
        fraction: share of the utterances in (0, 1]; hit as well as chance does.
    """
    hashes = data.frame["audio_key"].map(lambda key: hash_fraction(SALT, key))
    kept = (data.frame["split"] != "train") | (hashes < fraction)
    return replace(data, frame=data.frame[kept])


@dataclass(frozen=True)
class Amount:
    """How much training data a share holds."""

    fraction: float
    num_utterances: int
    hours: float
    transcribed_hours: float
    num_transcribed: int

    @classmethod
    def of(cls, data: PreparedData, fraction: float) -> Amount:
        """Return what a share of the data holds."""
        rows = draw(data, fraction).split("train")
        seconds, has_text = rows["duration_seconds"], rows["text"].notna()
        return cls(
            fraction,
            len(rows),
            float(seconds.sum()) / SECONDS_PER_HOUR,
            float(seconds[has_text].sum()) / SECONDS_PER_HOUR,
            int(has_text.sum()),
        )


def amounts(data: PreparedData, settings: Params) -> list[Amount]:
    """Return what every share holds, smallest first.

    Raises:
        CorpusError: one is empty, or has no transcript where one is needed.
    """
    found = [Amount.of(data, fraction) for fraction in sorted(settings.curve.fractions)]
    total = len(data.split("train"))
    distill = settings.distill
    needs_text = distill.control or not all(
        distill.objective_of(name).uses_teacher for name in settings.curve_students
    )
    reader = "the control" if distill.control else "a student that has no teacher"
    for item in found:
        which = f"curve.fractions: {item.fraction:g} draws {item.num_utterances} of the {total}"
        if not item.num_utterances:
            raise CorpusError(
                f"{which} training utterances, at least one is needed; leave it out, or take more"
            )
        if needs_text and not item.num_transcribed:
            raise CorpusError(
                f"{which} training utterances and none of them has a transcript, at least one is "
                f"needed by {reader}; leave it out, take more, or add transcripts"
            )
    return found


class CurveModel(NamedTuple):
    """One model on a curve."""

    role: str  # student or control
    student: str
    seed: int
    fraction: float

    @property
    def item(self) -> str:
        """What tells it from others of its share, as below models/ and curves/."""
        return f"{FOLDERS[self.role]}/{self.student}/seed-{self.seed}"

    @property
    def run(self) -> TrainedModel:
        """What it is called among predictions."""
        return TrainedModel(
            f"{FOLDERS[self.role]}/{self.student}@{percent(self.fraction)}", self.seed
        )

    @property
    def is_stages(self) -> bool:
        """Whether the stage `distill` trains it: that of all data."""
        return self.fraction == 1.0

    def folder(self, root: Path) -> Path:
        """Return where it lies in a workspace."""
        if self.is_stages:
            return root / "models" / self.item
        return root / MODELS / self.item / f"{percent(self.fraction)}-percent"

    def learning_curve(self, root: Path) -> Path:
        """Return the file of its learning curve."""
        if self.is_stages:
            return root / f"curves/{self.item}.jsonl"
        return self.folder(root) / LEARNING_CURVE_FILE

    def __str__(self) -> str:
        return f"{self.role} {self.student}, {percent(self.fraction)} %, seed {self.seed}"


def models_of(settings: Params) -> list[CurveModel]:
    """Return all models of the curves: small shares first, a control behind its student."""
    roles = ("student", "control") if settings.distill.control else ("student",)
    return [
        CurveModel(role, student, seed, fraction)
        for fraction in sorted(settings.curve.fractions)
        for student in settings.curve_students
        for seed in settings.distill.seeds
        for role in roles
    ]


def score(root: Path, data: PreparedData, settings: Params) -> dict[str, Any]:
    """Return what all models of the curves reach on the test split, see `summarise`.

    Raises:
        CorpusError: no test utterance has a transcript with a word in it, or a share is unfit.
        ModelError: a model is missing or damaged, or made for another sample rate.
        StageError: a learning curve is missing or damaged.
    """
    rows = labelled_test_rows(data)
    models = models_of(settings)
    places = {TrainedModel("teacher", None): root / "models/teacher"}
    places |= {model.run: model.folder(root) for model in models}
    recognisers = {run: load_teacher(place) for run, place in places.items()}
    for recogniser in recognisers.values():
        recogniser.check_sample_rate(data.sample_rate_hz)
    chunk_seconds = settings.evaluate.stream_chunk_seconds
    predictions, _ = predict(data, rows, recognisers, chunk_seconds)
    steps = {model.run: read_curves(model.learning_curve(root))[-1].step for model in models}
    return {
        "confidence": settings.evaluate.confidence,
        "seeds": list(settings.distill.seeds),
        "data": describe(rows).entries(),
        **summarise(predictions, steps, amounts(data, settings), settings.evaluate),
    }


def summarise(
    predictions: pd.DataFrame,
    steps: Mapping[TrainedModel, int],
    shares: Sequence[Amount],
    params: EvaluateParams,
) -> dict[str, Any]:
    """Return all figures of the curves; rates and gains are fractions.

    Args:
        predictions: of the teacher and of all models, under the names of `CurveModel.run`.
        steps: optimiser steps that each model was trained for.
        shares: what each share of the training data holds.
        params: settings of the stage `evaluate`.

    Returns:
        `teacher`, its rates; and `points`, one per student and share: how much data that is, the
        rates of `student` and, if it was trained, `control`, and in `gain` how the two compare.
    """
    of_teacher = predictions[predictions["model"] == "teacher"]
    students = dict.fromkeys(
        run.model.removeprefix("students/").rpartition("@")[0]
        for run in steps
        if run.model.startswith("students/")
    )
    points = []
    for student in students:
        for share in shares:
            suffix = f"@{percent(share.fraction)}"
            keys = {f"{FOLDERS[role]}/{student}{suffix}": role for role in ROLES}
            here = predictions[predictions["model"].isin(keys)]
            same_names = here.assign(model=here["model"].str.removesuffix(suffix))
            point = {
                "name": student,
                "fraction": share.fraction,
                "utterances": share.num_utterances,
                "hours": share.hours,
                "transcribed_hours": share.transcribed_hours,
                "gain": compare(student, pd.concat([of_teacher, same_names]), params).entries(),
            }
            for key, role in keys.items():
                scored = here[here["model"] == key]
                if not scored.empty:
                    point[role] = _figures(scored, key, steps, params)
            points.append(point)
    return {"teacher": rates(of_teacher, params).entries(), "points": points}


def _figures(
    scored: pd.DataFrame, key: str, steps: Mapping[TrainedModel, int], params: EvaluateParams
) -> dict[str, Any]:
    by_seed = [
        {
            "seed": int(seed),
            "steps": steps[TrainedModel(key, int(seed))],
            "wer": rates(scored[scored["seed"] == seed], params).wer.value,
        }
        for seed in scored["seed"].unique()
    ]
    return {**rates(scored, params).entries(), "by_seed": by_seed}


def table_of(summary: Summary) -> pd.DataFrame:
    """Return the figures as a table, one row for the teacher and per student, share and role."""
    teacher = {"student": "", "role": "teacher", **_rates(summary["teacher"])}
    rows: list[dict[str, Any]] = [teacher]
    for point in summary["points"]:
        for role in [role for role in ROLES if role in point]:
            figures = point[role]
            rows.append(
                {
                    "student": point["name"],
                    "role": role,
                    "fraction": point["fraction"],
                    "hours": round(point["hours"], 6),
                    "transcribed_hours": round(point["transcribed_hours"], 6),
                    "utterances": point["utterances"],
                    "steps": _join(run["steps"] for run in figures["by_seed"]),
                    "seeds": _join(run["seed"] for run in figures["by_seed"]),
                    **_rates(figures),
                    "wer_by_seed": _join(round(run["wer"], 6) for run in figures["by_seed"]),
                    **(_gains(point["gain"]) if role == "student" else {}),
                }
            )
    columns = max((list(row) for row in rows), key=len)
    return pd.DataFrame(rows, columns=columns).astype({"utterances": "Int64"})


def _rates(figures: Summary) -> dict[str, Any]:
    return {name: figures[name] for name in RATES}


def _gains(figures: Summary) -> dict[str, Any]:
    return {name: figures[name] for name in GAINS}


def _join(values: Any) -> str:
    return " ".join(str(value) for value in values)


def write_report(summary: Summary, folder: Path) -> None:
    """Write the table and the picture of the curves.

    Args:
        summary: what `score` returns.
        folder: receives curve.csv and curve.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    csv = table_of(summary).to_csv(index=False, float_format="%.6f")
    write_bytes(folder / CSV_FILE, csv.encode())
    plot_data_curve(summary, folder / PLOT_FILE)


def render(summary: Summary) -> str:
    """Return the curves as text for the terminal, 100 columns wide."""
    table = new_table(title(TestData.model_validate(summary["data"]), len(summary["seeds"])))
    interval = f"[{100 * summary['confidence']:g} % interval]"
    table.add_column("student", overflow="fold")
    for header in ("training audio", f"control, WER %\n{interval}", f"student, WER %\n{interval}"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column(f"gain, points\n{interval}", justify="right", no_wrap=True)
    between = "\n" if len(summary["seeds"]) > 1 else " "
    for point in summary["points"]:
        control = point.get("control")
        gained = point["gain"]["gain_wer"] is not None
        table.add_row(
            point["name"],
            f"{point['hours']:.3g} h ({percent(point['fraction'])} %)",
            _with_interval(control, "wer", between) if control else MISSING,
            _with_interval(point["student"], "wer", between),
            _with_interval(point["gain"], "gain_wer", between) if gained else MISSING,
        )
    teacher = _with_interval(summary["teacher"], "wer", " ")
    return as_text(table, "", f"teacher: WER {teacher} %; the same at every amount")


def _with_interval(figures: Summary, name: str, between: str) -> str:
    return with_interval(Estimate.among(figures, name), between)


def metrics(summary: Summary, timestamp: int) -> list[Point]:
    """Return the curves as MLflow draws them: WER and gain by seconds of training audio.

    Args:
        summary: what `score` returns.
        timestamp: milliseconds since 1970.
    """
    points: dict[tuple[str, int], float] = {}
    for point in summary["points"]:
        step = round(point["hours"] * SECONDS_PER_HOUR)
        name = point["name"]
        values = {"teacher/wer": summary["teacher"]["wer"], "data/hours": point["hours"]}
        for role in [role for role in ROLES if role in point]:
            for rate in ("wer", "wer_sd", "wer_low", "wer_high"):
                values[f"{role}/{name}/{rate}"] = point[role][rate]
        for gain in GAINS:
            values[f"gain/{name}/{gain.removeprefix('gain_')}"] = point["gain"][gain]
        points |= {(key, step): value for key, value in values.items() if value is not None}
    return [Point(key, float(value), step, timestamp) for (key, step), value in points.items()]
