"""What each objective is worth on real speech: students and controls of several seeds, compared.

    python -m benchmarks.quality.study benchmarks/quality/an4_all.yaml --source data/raw/an4

A study is a YAML file: settings of a whole pipeline, and rows that change some of `distill`. All
rows share data, teacher, cache and, where they share what a control depends on, the controls. What
is finished is kept in the study's workspace, so the same command goes on where it was stopped, and
two processes may work on different rows (`--rows`). The table and the settings that made it go to
benchmarks/results/quality_NAME.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.common import ROOT, commit, machine, write_rows
from distillery.data.judged import judged
from distillery.data.manifest import PreparedData
from distillery.data.scoring import count_text_errors, rate_over_seeds
from distillery.decoder.making import learn
from distillery.distill.distillation import Distillation, Trained
from distillery.distill.kept_texts import language_model_texts
from distillery.errors import DistilleryError
from distillery.evaluate.comparison import gap_closed
from distillery.evaluate.listening import labelled_test_rows, predict
from distillery.evaluate.models import TrainedModel
from distillery.evaluate.searched import search
from distillery.files import write_json
from distillery.models.base import Teacher
from distillery.params.decoder import DecoderParams
from distillery.params.distill import DistillParams
from distillery.params.file import PARAMS_FILE
from distillery.params.objective import ObjectiveParams
from distillery.params.whole import Params
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher
from distillery.training.curves import run_digest
from tasks.cache import cache
from tasks.prepare import prepare
from tasks.teacher import teacher

WORKSPACES = ROOT / "scratch/quality"
NUM_RESAMPLES, CONFIDENCE, BOOTSTRAP_SEED = 1000, 0.95, 0
CHUNK_SECONDS = 0.32
BESIDE_DISTILL = ("decoder", "speed_factors")
"""Keys of a row that change something else than `distill`; the cache holds all copies."""
REPLACED = ("objective", "architecture")
"""Settings that a change takes the place of; all others are merged."""


@dataclass(frozen=True)
class Study:
    """A study's file, and the workspace where it is done."""

    name: str
    title: str
    student: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    """As in params.yaml, the source of the corpus missing."""
    rows: Mapping[str, Mapping[str, Any]]
    """By name, changes to `settings["distill"]`; the first row is the default."""
    goal: Mapping[str, Any]
    workspace: Path
    teacher_of: str | None = None
    """Another study whose teacher serves here, too."""

    @classmethod
    def read(cls, path: Path, workspaces: Path) -> Study:
        """Read a study.

        Raises:
            DistilleryError: it lacks a key, or has one too many.
        """
        content = yaml.safe_load(path.read_text("utf-8"))
        base = yaml.safe_load((ROOT / content.pop("settings")).read_text("utf-8"))
        settings = merged(base, content.pop("changes", {}))
        try:
            seeds = tuple(content.pop("seeds"))
            return cls(
                path.stem,
                seeds=seeds,
                settings=settings,
                workspace=workspaces / path.stem,
                **content,
            )
        except (KeyError, TypeError) as error:
            raise DistilleryError(f"{path}: {error}; see benchmarks/quality/study.py") from None

    def write_settings(self, source: Path, teacher_model: str | None = None) -> Params:
        """Write params.yaml into the workspace and return what it holds.

        Args:
            source: folder of the corpus.
            teacher_model: where a pre-trained teacher lies, if not where the study says.

        Raises:
            DistilleryError: the workspace was made with other settings of data or teacher.
        """
        content = merged(self.settings, {"prepare": {"source": str(source)}})
        if teacher_model is not None:
            content = merged(content, {"teacher": {"model": teacher_model}})
        path = self.workspace / PARAMS_FILE
        former = Params.load(path) if path.exists() else None
        self.workspace.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        present = Params.load(path)
        if former and (former.prepare, former.teacher) != (present.prepare, present.teacher):
            raise DistilleryError(
                f"{self.workspace}: data and teacher were made with other settings than the "
                "study now has; remove the folder to begin anew"
            )
        return present

    def bring_up(self, source: Path, teacher_model: str | None = None) -> Params:
        """Prepare data, teacher and cache; what is there stays."""
        present = self.write_settings(source, teacher_model)
        if not (self.workspace / "data/prepared").exists():
            prepare(self.workspace)
        models = self.workspace / "models/teacher"
        if not models.exists() and self.teacher_of:
            shutil.copytree(self.workspace.parent / self.teacher_of / "models/teacher", models)
        if not models.exists():
            teacher(self.workspace)
        cache(self.workspace)
        (self.workspace / "runs").mkdir(exist_ok=True)
        return present


@dataclass(frozen=True)
class Runs:
    """Trains what a study asks for, and keeps what each training gave."""

    study: Study
    present: Params

    @cached_property
    def data(self) -> PreparedData:
        """The prepared corpus."""
        data = PreparedData.open(self.study.workspace / "data/prepared")
        return judged(data, self.study.workspace / "models/teacher")

    @cached_property
    def cache(self) -> TeacherCache:
        """What the teacher said."""
        return TeacherCache.open_current(self.study.workspace / "data/teacher_cache")

    @cached_property
    def test_rows(self) -> pd.DataFrame:
        """What all models are judged on."""
        return labelled_test_rows(self.data)

    @cached_property
    def has_controls(self) -> bool:
        """Whether there is anything that a control could learn from."""
        return bool(self.data.split("train")["text"].notna().any())

    def settings_of(self, row: str, seed: int) -> DistillParams:
        """Return the settings of a row, one student in them."""
        content = merged(self.study.settings["distill"], {})
        content["students"] = {self.study.student: content["students"][self.study.student]}
        changes = {k: v for k, v in self.study.rows[row].items() if k not in BESIDE_DISTILL}
        student = {key: changes.pop(key) for key in ("architecture", "init") if key in changes}
        content = merged(content, {**changes, "students": {self.study.student: student}})
        return DistillParams.model_validate(content).for_seed(seed)

    def decoder_of(self, row: str) -> DecoderParams | None:
        """Return what a row's students are served with; None: best paths."""
        decoder = self.study.settings.get("register", {}).get("decoder")
        decoder = self.study.rows[row].get("decoder", decoder)
        return None if decoder in (None, False) else DecoderParams.model_validate(decoder)

    def speed_factors_of(self, row: str) -> tuple[float, ...]:
        """Return the speeds of the copies that a row trains on, too."""
        return tuple(self.study.rows[row].get("speed_factors", ()))

    def teacher(self) -> dict[str, Any]:
        """Return the teacher's errors."""
        path = self.study.workspace / "runs/teacher.json"
        if not path.exists():
            model = load_teacher(self.study.workspace / "models/teacher")
            write_json(path, self._judge(model))
        return _read(path)

    def student(self, row: str, seed: int) -> dict[str, Any]:
        """Return what a row's student of one seed gave, trained where it was not before."""
        settings = self.settings_of(row, seed)
        return self._once("student", row, settings, seed, lambda run, path: run.train_student(path))

    def control(self, row: str, seed: int) -> dict[str, Any]:
        """Return what the control of a row's student gave; rows of equal controls share one."""
        settings = self.settings_of(row, seed)
        plain = settings.model_copy(update={"objective": ObjectiveParams()})
        return self._once("control", row, plain, seed, lambda run, path: run.train_control(path))

    def _once(
        self, role: str, row: str, settings: DistillParams, seed: int, train: Any
    ) -> dict[str, Any]:
        speeds, decoder = self.speed_factors_of(row), self.decoder_of(row)
        beside = ([list(speeds)] if speeds else []) + (
            [decoder.model_dump(mode="json")] if decoder else []
        )
        digest = run_digest(
            role, settings.model_dump(exclude_defaults=True), self._origin(), *beside
        )
        path = self.study.workspace / f"runs/{role}-{digest}.json"
        if not path.exists():
            run = Distillation(
                self.data,
                self.cache,
                self.study.student,
                settings,
                self.study.workspace / "scratch",
                self.study.workspace / "models",
                speed_factors=speeds,
            )
            trained: Trained = train(run, path.with_suffix(".jsonl"))
            path.with_suffix("").mkdir(exist_ok=True)
            trained.recogniser.save(path.with_suffix(""))
            heard = self._judge(trained.recogniser)
            if decoder:
                heard |= self._judge_as_served(decoder, trained.recogniser, settings)
            extra = {
                "valid_wer": trained.valid_wer,
                "num_epochs": trained.num_epochs,
                "converged": trained.converged,
            }
            write_json(path, {**heard, **extra, "role": role, "seed": seed})
            trained.checkpoint.unlink(missing_ok=True)
        return _read(path)

    def _origin(self) -> list[str]:
        return [
            str(self.cache.namespace.teacher["weights"]),
            *(str(key) for key in sorted(self.data.split("train")["audio_key"])),
            *(str(text) for text in sorted(self.data.split("train")["text"].dropna())),
        ]

    def _judge(self, recogniser: Teacher) -> dict[str, Any]:
        run = TrainedModel("model", None)
        predictions, _ = predict(self.data, self.test_rows, {run: recogniser}, CHUNK_SECONDS)
        return {
            "parameters": recogniser.num_parameters,
            "words": predictions["words"].tolist(),
            "word_errors": predictions["word_errors"].tolist(),
        }

    def _judge_as_served(
        self, params: DecoderParams, recogniser: Teacher, settings: DistillParams
    ) -> dict[str, Any]:
        """Return the errors of what the shipped decoder finds, its weights chosen on validation."""
        source, texts = params.language_model, []
        if source.learns_from != "files":
            cached = self.study.workspace / "data/teacher_cache"
            texts = language_model_texts(self.data, cached, settings.filter, source.learns_from)
        learnt = learn(ROOT, self.data, texts, params)
        rows, unit, model = self.test_rows, self.data.unit_of("test"), TrainedModel("model", None)
        found = search(self.data, rows, {model: recogniser}, None, learnt).found[model]
        pairs = zip(rows["text"], found.texts, strict=True)
        return {
            "word_errors_lm": [count_text_errors(*pair, unit).errors for pair in pairs],
            "valid_wer_lm": found.tuned.valid_wer,
            "decoder_bytes": found.tuned.bytes,
        }


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes merged into them; sections of REPLACED, and of another kind than
    before, take the place of the old."""
    content = dict(base)
    for key, value in changes.items():
        old = content.get(key)
        together = isinstance(old, Mapping) and isinstance(value, Mapping) and key not in REPLACED
        if together and value.get("kind", old.get("kind")) != old.get("kind"):
            together = False  # a teacher of another kind has other settings
        content[key] = merged(old, value) if together else value  # type: ignore[arg-type]
    return content


def summarise(
    students: Sequence[Mapping[str, Any]],
    controls: Sequence[Mapping[str, Any]],
    teacher_run: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a row of the table: mean WERs over the seeds, gain with interval, gap closed.

    Args:
        students: one run per seed.
        controls: those of the same seeds; none where nothing is transcribed.
        teacher_run: the teacher's.
    """
    words = np.array(teacher_run["words"])
    teacher_errors = np.array(teacher_run["word_errors"])
    own = np.array([run["word_errors"] for run in students])
    row: dict[str, Any] = {
        **_rates("wer", own, words),
        "valid_wer": float(np.mean([run["valid_wer"] for run in students])),
        "parameters": students[0]["parameters"],
        "num_epochs": [run["num_epochs"] for run in students],
    }
    if teacher_run["parameters"]:  # a service or a file of texts tells none
        row["times_smaller"] = teacher_run["parameters"] / students[0]["parameters"]
    if "word_errors_lm" in students[0]:
        row |= _rates("wer_lm", np.array([run["word_errors_lm"] for run in students]), words)
        row["valid_wer_lm"] = float(np.mean([run["valid_wer_lm"] for run in students]))
    teacher_wer = teacher_errors.sum() / words.sum()
    for name in ("wer", "wer_lm"):
        if name in row and teacher_wer < 1:
            share = name.replace("wer", "accuracy_share")
            row[share] = (1 - row[name]) / (1 - float(teacher_wer))
    if not controls:
        return row
    plain = np.array([run["word_errors"] for run in controls])
    control, gain = _rates("control_wer", plain, words), _rates("gain_wer", plain - own, words)
    mean = control["control_wer"]
    return {
        **row,
        **control,
        **gain,
        "control_valid_wer": float(np.mean([run["valid_wer"] for run in controls])),
        "relative_gain": gain["gain_wer"] / mean if mean else None,
        "gap_closed": gap_closed((plain - own).sum(), (plain - teacher_errors).sum()),
    }


def _rates(name: str, errors: np.ndarray, words: np.ndarray) -> dict[str, Any]:
    """Return the mean over the seeds, its interval and each seed's, of errors `(seeds, utts)`."""
    found = rate_over_seeds(errors, words, NUM_RESAMPLES, CONFIDENCE, BOOTSTRAP_SEED)
    return {
        name: found.mean,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_by_seed": list(found.by_seed),
    }


def check_goal(row: Mapping[str, Any], goal: Mapping[str, Any]) -> dict[str, bool]:
    """Return for each part of a goal whether a row reaches it.

    Args:
        row: as `summarise` returns it.
        goal: least values of some of its figures, and `significant`: the interval excludes 0.

    Raises:
        DistilleryError: the goal names a figure that a row does not have.
    """
    if unknown := set(goal) - set(row) - {"significant"}:
        raise DistilleryError(f"goal: {sorted(unknown)} is no figure, expected {sorted(row)}")
    reached = {
        name: row[name] is not None and row[name] >= least
        for name, least in goal.items()
        if name != "significant"
    }
    if goal.get("significant"):
        reached["significant"] = row["gain_wer_low"] > 0
    return reached


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of a study; what none of its rows has is no column."""
    has_lm = any("wer_lm" in row for row in rows.values())
    has_controls = any("control_wer" in row for row in rows.values())
    head = ["row", "errors, % (by seed)"]
    head += ["as served, %"] if has_lm else []
    if has_controls:
        head += ["control, %", "gain, points (95 %)", "relative", "gap closed"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        cells = [name, _rate_by_seed(row, "wer")]
        if has_lm:
            cells.append(_rate_by_seed(row, "wer_lm") if "wer_lm" in row else "–")
        if has_controls:
            interval = f"{100 * row['gain_wer_low']:.1f} to {100 * row['gain_wer_high']:.1f}"
            closed, relative = row["gap_closed"], row["relative_gain"]
            cells += [
                f"{100 * row['control_wer']:.1f}",
                f"{100 * row['gain_wer']:.1f} ({interval})",
                "–" if relative is None else f"{100 * relative:.1f} %",
                "–" if closed is None else f"{100 * closed:.0f} %",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rate_by_seed(row: Mapping[str, Any], name: str) -> str:
    each = ", ".join(f"{100 * rate:.1f}" for rate in row[f"{name}_by_seed"])
    return f"{100 * row[name]:.1f} ({each})"


def run_study(
    study: Study, source: Path, names: Sequence[str], teacher_model: str | None = None
) -> dict[str, Any]:
    """Train all that the named rows need and return the study's results."""
    runs = Runs(study, study.bring_up(source, teacher_model))
    teacher_run = runs.teacher()
    for name in names:
        for seed in study.seeds:
            if runs.has_controls:
                runs.control(name, seed)
            runs.student(name, seed)
        print(f"finished: {name}", flush=True)
    rows = {
        name: summarise(
            [runs.student(name, seed) for seed in study.seeds],
            [runs.control(name, seed) for seed in study.seeds] if runs.has_controls else [],
            teacher_run,
        )
        for name in names
    }
    words, errors = sum(teacher_run["words"]), sum(teacher_run["word_errors"])
    return {
        "title": study.title,
        "unit": str(runs.data.unit_of("test")),
        "teacher_wer": errors / words,
        "teacher_parameters": teacher_run["parameters"],
        "seeds": list(study.seeds),
        "student": study.student,
        "settings": study.settings,
        "changes": dict(study.rows),
        "rows": rows,
        "goal": dict(study.goal),
        "reached": check_goal(next(iter(rows.values())), study.goal),
        "machine": machine(),
        "commit": commit(),
    }


def plot_gains(results: Mapping[str, Any], path: Path) -> None:
    """Draw each row's gain over its control with its interval, in points of WER."""
    from matplotlib.figure import Figure

    rows = results["rows"]
    figure = Figure(figsize=(9, 1.5 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        gain, low, high = (100 * row[key] for key in ("gain_wer", "gain_wer_low", "gain_wer_high"))
        colour = "#0072b2" if low > 0 else "#d55e00" if high < 0 else "#4d4d4d"
        axes.errorbar(gain, place, xerr=[[gain - low], [high - gain]], fmt="o", color=colour)
        axes.annotate(
            f"{100 * row['wer']:.1f} %", (high, place), (6, -3), textcoords="offset points"
        )
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.12)
    axes.set_xlabel("gain over the control, points of WER (95 % interval); beside it the WER")
    axes.set_title(results["title"])
    figure.savefig(path, dpi=110)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def main() -> None:
    """Run a study, or some of its rows, and print the table."""
    parser = argparse.ArgumentParser(description="What objectives are worth on real speech.")
    parser.add_argument("study", type=Path, help="YAML file beside this module")
    parser.add_argument("--source", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--workspaces", type=Path, default=WORKSPACES, help="default: %(default)s")
    parser.add_argument("--rows", nargs="+", help="these alone; writes no results, nor do --seeds")
    parser.add_argument("--teacher-model", help="where a pre-trained teacher lies")
    parser.add_argument("--seeds", type=int, nargs="+", help="in place of the study's")
    parser.add_argument("--plot", type=Path, help="PNG file for the gains")
    options = parser.parse_args()
    study = Study.read(options.study, options.workspaces.resolve())
    if options.seeds:
        study = replace(study, seeds=tuple(options.seeds))
    if unknown := set(options.rows or ()) - set(study.rows):
        parser.error(f"no rows {sorted(unknown)}; expected some of {list(study.rows)}")
    names = options.rows or list(study.rows)
    results = run_study(study, options.source.resolve(), names, options.teacher_model)
    print(markdown(results["rows"]))
    if options.rows or options.seeds:
        return
    print(f"goal {results['goal']}: {results['reached']}")
    print(write_rows(f"quality_{study.name}", results))
    if options.plot:
        plot_gains(results, options.plot)


if __name__ == "__main__":
    main()
