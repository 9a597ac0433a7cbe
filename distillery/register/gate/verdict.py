"""What the gate said, for people and programs: terminal, Markdown, gate.json, MLflow.

Imports no model code, so that showing a verdict is quick.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from distillery.console import as_text, new_table
from distillery.data.units import Unit
from distillery.files import write_json

GATE_FILE = "reports/gate.json"
HEADERS = ("rule", "format", "figure", "limit", "")
MARKS = {True: "passed", False: "FAILED"}
NOT_BINDING = "failed, not served"


@dataclass(frozen=True)
class Ruling:
    """What one rule said of a student in one format."""

    rule: str
    """Its name, a function of `distillery.register.gate.rules` without `rule_`."""
    form: str
    """The format: `torch`, or what the student was exported to."""
    figure: int | float
    """What was measured."""
    limit: int | float
    """What it is compared with."""
    unit: str
    """`%` and `points` are fractions and differences of fractions; what is counted; or nothing."""
    passed: bool
    """Whether the figure is on the right side of its limit."""
    sentence: str
    """The ruling in words."""
    binding: bool = True
    """Whether it counts: a format in which the version would not be served is judged for interest.
    """

    @property
    def mark(self) -> str:
        """Return the ruling in a word or two."""
        return MARKS[self.passed] if self.passed or self.binding else NOT_BINDING

    def shown(self, value: float) -> str:
        """Return a figure, or a limit, as people read it."""
        if self.unit == "points":
            return f"{100 * value:+.2f} points"
        if self.unit == "%":
            return f"{100 * value:.2f} %"
        if self.unit:
            return f"{value:,.0f} {self.unit}"
        return f"{value:.2g}"


@dataclass(frozen=True)
class Verdict:
    """Which alias a version got, and why."""

    version: str
    """The student's."""
    alias: str
    """champion, challenger, or nothing where it stays without one."""
    reason: str
    """Why, in a sentence."""
    changed: bool = False
    """Whether aliases moved for it."""
    against: str | None = None
    """The version that it was compared with."""
    wer: float | None = None
    """As a fraction, on the test split."""
    against_wer: float | None = None
    """That version's, on the same utterances and in the same run."""
    num_utterances: int = 0
    """Of the test split, that both were judged on."""
    rulings: tuple[Ruling, ...] = ()
    """Of every rule on every format; none where nothing had to be judged."""
    unit: Unit = Unit.WORD
    """What errors are counted in; in gate.json only where it is not the word."""
    num_left_out: int | None = None
    """Test utterances that the other version learnt from; None where it does not say, or there is
    no other."""
    note: str = ""
    """What a person should know of them, a sentence; empty where there is nothing."""

    @property
    def failed(self) -> list[Ruling]:
        """The rulings that stood in the way."""
        return [ruling for ruling in self.rulings if ruling.binding and not ruling.passed]

    @property
    def tags(self) -> dict[str, str]:
        """What MLflow's runs and versions bear."""
        return {
            "gate.alias": self.alias,
            "gate.reason": self.reason,
            "gate.against": self.against or "none",
            "gate.failed": ", ".join(f"{item.rule} ({item.form})" for item in self.failed)
            or "none",
        }

    @property
    def metrics(self) -> dict[str, float]:
        """What MLflow's parent run bears, such as `gate/torch/wer`."""
        values = {f"gate/{item.form}/{item.rule}": float(item.figure) for item in self.rulings}
        if self.against_wer is not None:
            values["gate/champion_wer"] = self.against_wer
        if self.num_left_out is not None:
            values["gate/left_out"] = float(self.num_left_out)
        return values


def write_verdict(root: Path, model_name: str, verdict: Verdict) -> None:
    """Write reports/gate.json in a workspace.

    Args:
        root: the workspace.
        model_name: the registered model that it is about.
        verdict: the gate's.
    """
    path = root / GATE_FILE
    path.parent.mkdir(exist_ok=True)
    content = {"model": model_name, **asdict(verdict)}
    usual = {"unit": Unit.WORD, "num_left_out": None, "note": ""}  # not said, as ever since
    write_json(path, {key: value for key, value in content.items() if usual.get(key, ()) != value})


def parse_verdict(text: str) -> Verdict:
    """Return what gate.json's text says.

    Raises:
        ValueError: it is no such text.
    """
    return TypeAdapter(Verdict).validate_json(text)


def read_verdict(root: Path, model_name: str | None = None) -> Verdict | None:
    """Return a workspace's last verdict, None where there is none to be read.

    Args:
        root: the workspace.
        model_name: the registered model that it must be about; None: any.
    """
    try:
        text = (root / GATE_FILE).read_text("utf-8")
        is_other = model_name is not None and json.loads(text)["model"] != model_name
        return None if is_other else parse_verdict(text)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def sentence(verdict: Verdict) -> str:
    """Return the verdict in a sentence."""
    alias = verdict.alias or "without an alias"
    note = f" {verdict.note}" if verdict.note else ""
    return f"Gate: version {verdict.version} is {alias}: {verdict.reason}.{note}"


def render(verdict: Verdict) -> str:
    """Return the rulings as a table for terminals, and what failed in sentences."""
    table = new_table()
    for header in HEADERS:
        numbers = header in ("figure", "limit")
        table.add_column(header, justify="right" if numbers else "left", no_wrap=True)
    for cells in _cells(verdict):
        table.add_row(*cells)
    return as_text(sentence(verdict), *(("", table) if verdict.rulings else ()))


def markdown(verdict: Verdict) -> str:
    """Return the verdict and its rulings as Markdown.

    No sentence for each: the table would be wider than MLflow's and Prefect's pages.
    """
    lines = [sentence(verdict)]
    if verdict.rulings:
        lines += ["", f"| {' | '.join([*HEADERS[:4], 'ruling'])} |"]
        lines += ["| :-- | :-- | --: | --: | :-- |"]
        lines += [f"| {' | '.join(cells)} |" for cells in _cells(verdict)]
    return "\n".join(lines) + "\n"


def _cells(verdict: Verdict) -> list[list[str]]:
    return [
        [
            ruling.rule,
            ruling.form,
            ruling.shown(ruling.figure),
            ruling.shown(ruling.limit),
            ruling.mark,
        ]
        for ruling in verdict.rulings
    ]
