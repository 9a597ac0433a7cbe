"""What distillation is worth on real speech: at convergence, and at equal computing.

    python -m benchmarks.quality.study benchmarks/quality/fsdd.yaml --source data/raw/fsdd --jobs 2

A study is a YAML file: settings of a whole pipeline, and rows that change some of `distill`. It
makes two claims, and keeps them apart. At convergence student and control each train until their
own validation has stopped improving, by the same rule and with the same maximum (its `rows`, and
`parts`: rows on some of the training utterances). At equal computing both train for the same
numbers of epochs, and their errors are compared at the same CPU seconds (`budgets`).

All rows share data, teacher, cache and, where they share what a control depends on, the controls.
What is finished is kept in the study's workspace, so the same command goes on where it was stopped,
and several may work on one study. After every training, what is complete over all seeds goes to
benchmarks/results/quality_NAME.json with the settings that made it. Rows that are there already,
and were made by the very trainings that the study asks for, stay until they are made again: what
takes days may be done in several workspaces.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, commit, machine, write_rows
from benchmarks.quality.budgets import describe, equal_computing, plot_budgets
from benchmarks.quality.programme import Outcome, next_time, run_programme
from benchmarks.quality.runs import Run, Runs
from benchmarks.quality.settings import CLAIMS, WORKSPACES, Study, Training
from benchmarks.quality.tables import check_goal, markdown, plot_gains, summarise
from distillery.data.audio import SECONDS_PER_HOUR
from distillery.teacher_cache.filling.report import CACHE_REPORT_FILE, read_report
from distillery.training.curves import run_digest

CLAIMED = ("rows", "parts", "budgets")
"""Sections of the file of results."""
NOT_SAID = "not said; see the study's file"


@dataclass(frozen=True)
class Results:
    """What a study has found so far: all that is complete over its seeds."""

    runs: Runs

    @property
    def study(self) -> Study:
        """The study."""
        return self.runs.study

    @cached_property
    def former(self) -> Mapping[str, Any]:
        """What the file of results holds already."""
        path = RESULTS / f"{self.name}.json"
        content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return content

    @property
    def name(self) -> str:
        """What the file of results is called."""
        return f"quality_{self.study.name}"

    def to_json(self) -> dict[str, Any]:
        """Return what the file of results holds."""
        study, teacher = self.study, self.runs.teacher()
        rows = self.rows()
        default = next(iter(study.rows))
        goal = dict(study.goal)
        return {
            "title": study.title,
            "unit": str(self.runs.data.unit_of("test")),
            "teacher_wer": sum(teacher["word_errors"]) / sum(teacher["words"]),
            "teacher_parameters": teacher["parameters"],
            "teacher_pass": self.teacher_pass(),
            "seeds": list(study.seeds),
            "student": study.student,
            "settings": study.settings,
            "changes": dict(study.rows),
            "rows": rows,
            "budgets": self.budgets(),
            "parts": self.parts(),
            "goal": goal,
            "reached": check_goal(rows[default], goal) if default in rows else {},
            "unfinished": self.unfinished(),
            "machine": machine(),
            "commit": commit(),
            "commits_of_trainings": self.commits(),
        }

    def write(self) -> Path | str:
        """Write the results and return where; nothing while no row is complete.

        The file of an earlier state of the study stays until there is something to replace it.
        """
        found = self.to_json()
        if not any(found[claim] for claim in CLAIMED):
            return "no row is complete yet, so no results are written"
        return write_rows(self.name, found)

    def teacher_pass(self) -> dict[str, float | None]:
        """Return what caching what the teacher says cost: it is in no student's CPU seconds.

        `cpu_seconds` is null where this program did not see the pass; the stage's own report then
        tells how long the teacher took, in seconds by the clock.
        """
        seen, told = self.study.teacher_pass, read_report(self.study.workspace / CACHE_REPORT_FILE)
        return {
            "cpu_seconds": None if seen is None else seen.cpu_seconds,
            "audio_seconds": None if seen is None else seen.audio_seconds,
            "teacher_seconds_per_audio_second": (
                None if told is None else told.teacher_seconds_per_audio_second
            ),
        }

    def rows(self, part: int | None = None) -> dict[str, dict[str, Any]]:
        """Return the rows that are complete, of all training utterances or of a part."""
        former = self.former if part is None else self.former.get("parts", {}).get(str(part), {})
        found = {}
        for name in self.study.rows if part is None else self.study.parts.rows:
            by_role, made_by = self._complete(name, part, None), self._made_by(name, part)
            chosen = (self.study.chosen or {}).get(name, NOT_SAID)
            if by_role:
                row = summarise(by_role["student"], by_role.get("control", []), self.runs.teacher())
                found[name] = {**row, "chosen": chosen, "made_by": made_by}
            elif kept := _made_alike(former.get("rows", {}).get(name), made_by):
                found[name] = {**kept, "chosen": chosen}
        return found

    def parts(self) -> dict[str, dict[str, Any]]:
        """Return the rows of each part, and how much it holds, means over the seeds."""
        found = {}
        for size in self.study.parts.sizes:
            rows = self.rows(size)
            if rows:
                held = [
                    self.runs.data_of(Training("student", "", seed, size)).split("train")
                    for seed in self.study.seeds
                ]
                seconds = [float(split["duration_seconds"].sum()) for split in held]
                found[str(size)] = {
                    "hours": float(np.mean(seconds)) / SECONDS_PER_HOUR,
                    "transcripts": float(np.mean([split["text"].notna().sum() for split in held])),
                    "rows": rows,
                }
        return found

    def budgets(self) -> dict[str, dict[str, Any]]:
        """Return both curves of each row of which two points are complete, or more."""
        words, found = np.array(self.runs.teacher()["words"]), {}
        sizes = self.study.budgets.sizes
        for name in self.study.budgets.rows:
            complete = {epochs: self._complete(name, None, epochs) for epochs in sizes}
            by_epochs = {epochs: by_role for epochs, by_role in complete.items() if by_role}
            made_by = self._made_by(name, None, *sizes)
            kept = _made_alike(self.former.get("budgets", {}).get(name), made_by)
            if kept and len(by_epochs) < len(sizes):
                found[name] = kept
            elif len(by_epochs) > 1:
                by_role = {
                    role: {epochs: runs[role] for epochs, runs in by_epochs.items()}
                    for role in self.runs.roles
                }
                curves = equal_computing(by_role, words)
                found[name] = {**curves, "made_by": self._made_by(name, None, *by_epochs)}
        return found

    def _made_by(self, row: str, part: int | None, *epochs: int) -> str:
        """Return what names the recipes of a row's trainings: others give other figures."""
        trainings = [
            Training(role, row, seed, part, size)
            for role in self.runs.roles
            for seed in self.study.seeds
            for size in epochs or (None,)
        ]
        return run_digest(*(self.runs.recipe_of(training) for training in trainings))

    def _complete(self, row: str, part: int | None, epochs: int | None) -> dict[str, list[Run]]:
        """Return the runs of all seeds by role; nothing where one is missing."""
        found = {
            role: [
                self.runs.finished(Training(role, row, seed, part, epochs))
                for seed in self.study.seeds
            ]
            for role in self.runs.roles
        }
        if any(run is None for runs in found.values() for run in runs):
            return {}
        return {role: [run for run in runs if run is not None] for role, runs in found.items()}

    def _all(self) -> Iterable[Training]:
        return self.study.trainings(CLAIMS, self.runs.roles)

    def unfinished(self) -> list[str]:
        """Return what is not trained yet in this workspace."""
        return [str(training) for training in self._all() if self.runs.finished(training) is None]

    def commits(self) -> list[str]:
        """Return the revisions that the trainings were made with, where they say it."""
        found = [self.runs.finished(training) for training in self._all()]
        here = {run["commit"] for run in found if run is not None and "commit" in run}
        return sorted(here | set(self.former.get("commits_of_trainings", ())))


def _made_alike(former: dict[str, Any] | None, made_by: str) -> dict[str, Any] | None:
    """Return a row of before if the trainings that are asked for made it."""
    return former if former and former.get("made_by") == made_by else None


def run_study(
    study: Study,
    source: Path,
    claims: Sequence[str] = CLAIMS,
    teacher_model: str | None = None,
    *,
    jobs: int = 1,
    until: datetime | None = None,
    rows: Sequence[str] | None = None,
    write: bool = True,
) -> tuple[Results, Outcome]:
    """Train what some claims need and return what the study has found.

    Args:
        study: whose complete rows are returned, and written after each training.
        source: folder of the corpus.
        claims: some of CLAIMS.
        teacher_model: where a pre-trained teacher lies, if not where the study says.
        jobs: trainings side by side.
        until: when to end.
        rows: names of those to train; None: all.
        write: whether results are written after each training.
    """
    results = Results(Runs(study, study.bring_up(source, teacher_model)))
    trainings = list(study.with_only(rows).trainings(claims, results.runs.roles))
    results.runs.teacher()

    def say(training: Training, run: Run) -> None:
        print(
            f"finished {training}: {run['num_epochs']} epochs, "
            f"{run['cpu_seconds'] or 0:.0f} CPU s, validation {100 * run['valid_wer']:.1f} %, "
            f"{'had stopped improving' if run['converged'] else 'was still improving'}",
            flush=True,
        )
        if write:
            results.write()

    return results, run_programme(results.runs, trainings, jobs, until, say)


def report(results: Mapping[str, Any], plots: Path, name: str) -> list[str]:
    """Return what a person reads of a study's results, and draw what can be drawn.

    Args:
        results: as the file holds them.
        plots: folder for the plots.
        name: of the study, what their names begin with.
    """
    lines = ["At convergence", markdown(results["rows"])] if results["rows"] else []
    plots.mkdir(parents=True, exist_ok=True)
    if any("gain_wer" in row for row in results["rows"].values()):
        plot_gains(results, plots / f"{name}_gains.png")
    for size, part in results["parts"].items():
        lines += ["", f"At convergence, {size} training utterances ({60 * part['hours']:.1f} min)"]
        lines.append(markdown(part["rows"]))
    for place, (row, found) in enumerate(results["budgets"].items()):
        lines += ["", *describe(row, found)]
        title = f"{results['title'].removesuffix(', at convergence')}: {row}"
        plot_budgets(title, found, plots / f"{name}_budgets{place or ''}.png")
    lines += ["", _describe_pass(results["teacher_pass"])]
    if results["unfinished"]:
        lines += ["", f"not trained yet: {len(results['unfinished'])}"]
    return lines


def _describe_pass(cost: Mapping[str, float | None]) -> str:
    once = "once for all students, and in none of the figures above"
    if cost["cpu_seconds"] is not None:
        audio = f"{cost['audio_seconds']:.0f} s of audio"
        return f"the teacher's pass: {cost['cpu_seconds']:.0f} CPU s for {audio}, {once}"
    rate = cost["teacher_seconds_per_audio_second"]
    spent = "its cost was not seen" if rate is None else f"{rate:.3g} s a second of audio"
    return f"the teacher's pass: {spent}, {once}"


def main() -> None:
    """Run a study, or some of it, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, help="YAML file beside this module")
    parser.add_argument("--source", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--workspaces", type=Path, default=WORKSPACES, help="default: %(default)s")
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=CLAIMS)
    parser.add_argument("--rows", nargs="+", help="train these alone")
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="in place of the study's; writes no results"
    )
    parser.add_argument("--teacher-model", help="where a pre-trained teacher lies")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--until", help="HH:MM: end then; the same command goes on later")
    parser.add_argument("--plots", type=Path, help="folder for plots; default: the workspace")
    options = parser.parse_args()
    study = Study.read(options.study, options.workspaces.resolve())
    if unknown := set(options.rows or ()) - set(study.rows):
        parser.error(f"no rows {sorted(unknown)}; expected some of {list(study.rows)}")
    if options.seeds:
        study = replace(study, seeds=tuple(options.seeds))
    results, outcome = run_study(
        study,
        options.source.resolve(),
        options.claims,
        options.teacher_model,
        jobs=options.jobs,
        until=options.until and next_time(options.until, datetime.now()),
        rows=options.rows,
        write=not options.seeds,
    )
    found = results.to_json()
    print("\n".join(report(found, options.plots or study.workspace / "plots", study.name)))
    if not options.seeds:
        print(f"goal {found['goal']}: {found['reached']}")
        print(results.write())
    for training, why in outcome.failed.items():
        print(f"error: {training}: {why}", file=sys.stderr)
    if outcome.left:
        print(f"the time was up: {len(outcome.left)} trainings are left; the same command goes on")
    if outcome.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
