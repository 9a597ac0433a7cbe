"""What a study is: its file, its workspace, and the trainings that it asks for."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.common import ROOT
from distillery.errors import DistilleryError
from distillery.files import read_json, write_json
from distillery.params.decoder import DecoderParams
from distillery.params.distill import DistillParams
from distillery.params.file import PARAMS_FILE
from distillery.params.training import OF_AUTO
from distillery.params.whole import Params
from distillery.teacher_cache.filling.report import CACHE_REPORT_FILE, read_report
from tasks.cache import cache
from tasks.prepare import prepare
from tasks.teacher import teacher

WORKSPACES = ROOT / "scratch/quality"
BESIDE_DISTILL = ("decoder", "speed_factors")
"""Keys of a row that change something else than `distill`; the cache holds all copies."""
STUDENTS_OWN = ("architecture", "init", "tokens")
"""Keys of a row that stand under the student's name."""
REPLACED = ("objective", "architecture")
"""Settings that a change takes the place of; all others are merged."""
CLAIMS = ("convergence", "budgets", "parts")
"""What a study may ask, in the order in which it is trained."""


TEACHER_PASS_FILE = "reports/teacher_pass.json"
WHOSE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


@dataclass(frozen=True)
class TeacherPass:
    """What it cost to cache what the teacher says of the training split."""

    audio_seconds: float
    """Copies at other speeds included."""
    cpu_seconds: float
    """On all threads, the reading of the audio and the writing of the cache included."""


class Training(NamedTuple):
    """One model that a study trains."""

    role: str
    """student or control."""
    row: str
    seed: int
    part: int | None = None
    """So many training utterances; None: all."""
    epochs: int | None = None
    """So many, the step size falling as a cosine; None: as the settings have it."""

    def __str__(self) -> str:
        part = "" if self.part is None else f", {self.part} utterances"
        epochs = "" if self.epochs is None else f", {self.epochs} epochs"
        return f"{self.role} {self.row!r}{part}{epochs}, seed {self.seed}"


@dataclass(frozen=True)
class Sizes:
    """Several amounts of something, and the rows that are trained with each."""

    sizes: tuple[int, ...] = ()
    rows: tuple[str, ...] = ()
    """Names; the file may leave them out and means the first row then."""


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
    chosen: Mapping[str, str] | None = None
    """By row, on what data its settings were chosen: never on the test split."""
    budgets: Sizes = Sizes()
    """Numbers of epochs, for the gain at equal computing."""
    parts: Sizes = Sizes()
    """Numbers of training utterances, drawn by hash, each seed others; validation and test stay
    whole."""

    @classmethod
    def read(cls, path: Path, workspaces: Path) -> Study:
        """Read a study.

        Raises:
            DistilleryError: it lacks a key, has one too many, or names a row that it has not.
        """
        content = yaml.safe_load(path.read_text("utf-8"))
        base = yaml.safe_load((ROOT / content.pop("settings")).read_text("utf-8"))
        settings = merged(base, content.pop("changes", {}))
        try:
            rows = content.get("rows", {})
            sizes = {
                "budgets": _sizes(content.pop("budgets", {}), "epochs", rows),
                "parts": _sizes(content.pop("parts", {}), "utterances", rows),
            }
            seeds = tuple(content.pop("seeds"))
            workspace = workspaces / path.stem
            study = cls(
                path.stem, seeds=seeds, settings=settings, workspace=workspace, **sizes, **content
            )
        except (KeyError, TypeError) as error:
            raise DistilleryError(f"{path}: {error}; see benchmarks/quality/settings.py") from None
        study.check_names(path)
        return study

    def check_names(self, path: Path) -> None:
        """Make sure that all rows that are named exist.

        Raises:
            DistilleryError: one does not.
        """
        named = {
            "budgets.rows": self.budgets.rows,
            "parts.rows": self.parts.rows,
            "chosen": tuple(self.chosen or ()),
        }
        for key, names in named.items():
            if unknown := sorted(set(names) - set(self.rows)):
                raise DistilleryError(
                    f"{path}: {key} names {unknown}, expected some of {list(self.rows)}"
                )

    def with_only(self, rows: Sequence[str] | None) -> Study:
        """Return the study with some of its rows alone; None keeps all."""
        if rows is None:
            return self
        return replace(
            self,
            rows={name: row for name, row in self.rows.items() if name in rows},
            budgets=replace(self.budgets, rows=_among(self.budgets.rows, rows)),
            parts=replace(self.parts, rows=_among(self.parts.rows, rows)),
        )

    def trainings(self, claims: Sequence[str], roles: Sequence[str]) -> Iterator[Training]:
        """Yield what some claims need; the same control may be needed by several rows.

        Args:
            claims: some of CLAIMS.
            roles: student and control, or one of them.
        """
        plans: dict[str, list[tuple[str, int | None, int | None]]] = {
            "convergence": [(row, None, None) for row in self.rows],
            "budgets": [(r, None, size) for r in self.budgets.rows for size in self.budgets.sizes],
            "parts": [(r, size, None) for r in self.parts.rows for size in self.parts.sizes],
        }
        for claim in claims:
            for row, part, epochs in plans[claim]:
                for seed in self.seeds:
                    for role in roles:
                        yield Training(role, row, seed, part, epochs)

    def settings_of(self, row: str, seed: int, epochs: int | None = None) -> DistillParams:
        """Return the settings of a row, one student in them.

        Args:
            row: its name.
            seed: the training's.
            epochs: so many with a cosine in place of what the settings say. Its output layer
                starts at 0, as with `auto`: what is asked is what time is worth, not which seed
                gets going.
        """
        content = merged(self.settings["distill"], {})
        content["students"] = {self.student: content["students"][self.student]}
        changes = {k: v for k, v in self.rows[row].items() if k not in BESIDE_DISTILL}
        student = {key: changes.pop(key) for key in STUDENTS_OWN if key in changes}
        content = merged(content, {**changes, "students": {self.student: student}})
        if epochs is not None:
            unread = (*OF_AUTO, "patience", "average_steps")
            training = {k: v for k, v in content["training"].items() if k not in unread}
            content["training"] = {**training, "num_epochs": epochs, "zero_output": True}
        return DistillParams.model_validate(content).for_seed(seed)

    def decoder_of(self, row: str) -> DecoderParams | None:
        """Return what a row's students are served with; None: best paths."""
        decoder = self.settings.get("register", {}).get("decoder")
        decoder = self.rows[row].get("decoder", decoder)
        return None if decoder in (None, False) else DecoderParams.model_validate(decoder)

    def speed_factors_of(self, row: str) -> tuple[float, ...]:
        """Return the speeds of the copies that a row trains on, too."""
        return tuple(self.rows[row].get("speed_factors", ()))

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
        (self.workspace / "runs").mkdir(exist_ok=True)
        before = _cpu_seconds()
        cache(self.workspace)
        self._note_teacher_pass(_cpu_seconds() - before)
        return present

    def _note_teacher_pass(self, spent: float) -> None:
        """Add what a teacher pass cost to what earlier ones did, where there was one."""
        report = read_report(self.workspace / CACHE_REPORT_FILE)
        if report is None or not report.num_teacher_forwards:
            return
        former = self.teacher_pass or TeacherPass(0.0, 0.0)
        audio = former.audio_seconds + report.audio_seconds
        path = self.workspace / TEACHER_PASS_FILE
        write_json(path, asdict(TeacherPass(audio, former.cpu_seconds + spent)))

    @property
    def teacher_pass(self) -> TeacherPass | None:
        """What caching what the teacher says has cost; None: that was not seen."""
        try:
            return read_json(self.workspace / TEACHER_PASS_FILE, TeacherPass)
        except FileNotFoundError:
            return None


def _cpu_seconds() -> float:
    """Return what this process and its ended children have computed."""
    own, children = (resource.getrusage(who) for who in WHOSE)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


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


def _sizes(content: Mapping[str, Any], unit: str, rows: Mapping[str, object]) -> Sizes:
    """Return a section as the file has it: its sizes under `unit`, and the rows it names.

    Raises:
        KeyError: the sizes are missing.
        TypeError: a key is unknown.
    """
    if not content:
        return Sizes()
    if unknown := set(content) - {unit, "rows"}:
        raise TypeError(f"unknown keys {sorted(unknown)} beside {unit!r}")
    return Sizes(tuple(content[unit]), tuple(content.get("rows", list(rows)[:1])))


def _among(names: Sequence[str], rows: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in rows)
