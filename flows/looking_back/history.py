"""The history of retraining: a line for every run, a page for every one that did something.

    scratch/retraining.json        the run that is on, rewritten at every step
    reports/retraining.jsonl       one line for every run that has ended
    reports/retraining/RUN.md      what a run did, for a person

A run that was killed leaves its file in scratch behind. Who finds it and knows that nobody runs,
because the workspace's lock is theirs, puts it into the history as `crashed`; as `vanished` where
it began on another host, of which the lock may know nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from distillery.data.units import Unit
from distillery.files import write_bytes, write_json

HISTORY_FILE = "reports/retraining.jsonl"
PAGES = "reports/retraining"
OPEN_FILE = "scratch/retraining.json"

Status = Literal[
    "running", "finished", "nothing new", "skipped", "failed", "cancelled", "crashed", "vanished"
]
QUIET: tuple[Status, ...] = ("nothing new", "skipped")
"""Endings that leave a line but no page."""


@dataclass
class Retraining:
    """One run, as the history has it; None where a run did not get so far."""

    run: str
    """Its name, unique whatever the clock does."""
    trigger: str
    """What started it: schedule, manual, …"""
    started: str
    """UTC, ISO 8601; the lines' order, not this, says what came first."""
    flow_run: str | None = None
    """Its id in Prefect."""
    origin: dict[str, str] = field(default_factory=dict)
    """Which host, process and workspace, as flows/origin.py names them."""
    forced: bool = False
    status: Status = "running"
    step: str = "start"
    """The last one begun: pull, look, a stage, register, push, commit."""
    why: list[str] = field(default_factory=list)
    """What there was to do."""
    reason: str = ""
    """Why it ended as it did."""
    warnings: list[str] = field(default_factory=list)
    """What went wrong without spoiling the run."""
    seconds: float | None = None
    """By a clock that never goes back."""
    stages: dict[str, str] = field(default_factory=dict)
    """What became of each stage: unchanged, ran, restored."""
    teacher_forwards: int | None = None
    """Utterances that the teacher heard in this run."""
    teacher_seconds: float | None = None
    """Time it took for them."""
    data_md5: str | None = None
    """DVC's hash of the prepared data."""
    hours: float | None = None
    """Prepared audio."""
    num_utterances: int | None = None
    teacher_wer: float | None = None
    student: str | None = None
    wer: float | None = None
    """Of the student that was put up for promotion, on this run's test split; a fraction."""
    unit: str = Unit.WORD.value
    """What errors are counted in."""
    wer_low: float | None = None
    wer_high: float | None = None
    version: str | None = None
    alias: str | None = None
    """What the registry made of it: champion or challenger."""
    verdict: str | None = None
    former_champion: str | None = None
    champion: str | None = None
    """The version that is champion at the end."""
    mlflow_run: str | None = None
    pushed: bool | None = None
    commit: str | None = None
    """Git revision with the new dvc.lock."""


def begin(root: Path, record: Retraining) -> None:
    """Write down that a run is on; `update` after each change."""
    (root / OPEN_FILE).parent.mkdir(parents=True, exist_ok=True)
    update(root, record)


def update(root: Path, record: Retraining) -> None:
    """Write down how far the run is that is on."""
    write_json(root / OPEN_FILE, asdict(record))


def unfinished(root: Path) -> Retraining | None:
    """Return the run that is on, or that was killed; None where there is neither."""
    try:
        return _record(json.loads((root / OPEN_FILE).read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def close(root: Path, record: Retraining, status: Status, reason: str = "") -> None:
    """Put a run into the history, once, with its page; one that had vanished gets its end.

    Args:
        root: the workspace.
        record: the run.
        status: how it ended.
        reason: why.
    """
    record.status, record.reason = status, reason
    if all(row.run != record.run or row.status == "vanished" for row in read_history(root)):
        append(root, record)
        if status not in QUIET:
            (root / PAGES).mkdir(parents=True, exist_ok=True)
            write_bytes(root / PAGES / f"{record.run}.md", page(record).encode())
    left = unfinished(root)
    if left is not None and left.run == record.run:
        (root / OPEN_FILE).unlink(missing_ok=True)


def append(root: Path, record: Retraining) -> None:
    """Add one line to the history; several processes may at once."""
    path = root / HISTORY_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(record), sort_keys=True, ensure_ascii=False)
    with open(path, "a+b") as file:
        # A power cut may have left half a line, which must not spoil this one.
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def read_history(root: Path) -> list[Retraining]:
    """Return all runs that have ended, oldest first; lines that cannot be read are left out."""
    try:
        lines = (root / HISTORY_FILE).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found: dict[str, Retraining] = {}
    for line in lines:
        try:
            record = _record(json.loads(line))
        except (ValueError, TypeError):
            continue
        found[record.run] = record
    return list(found.values())


def is_unsent(root: Path) -> bool:
    """Return whether the last run that sent to the remote did not get through."""
    tried = [row.pushed for row in read_history(root) if row.pushed is not None]
    return bool(tried) and not tried[-1]


def last_work(root: Path) -> Retraining | None:
    """Return the last run that had something to do, None where there was none yet."""
    worked = [row for row in read_history(root) if row.status not in QUIET]
    return worked[-1] if worked else None


def page(record: Retraining) -> str:
    """Return what a run did as Markdown."""
    lines = [f"# Retraining {record.run}: {record.status}", ""]
    if record.reason:
        lines += [record.reason, ""]
    if record.status in ("failed", "cancelled", "crashed", "vanished"):
        what = "was last seen" if record.status == "vanished" else "ended"
        lines += [
            f"It {what} at the step `{record.step}`. Nothing is lost: stages that are done stay "
            "done, training goes on from its checkpoint, and the next run takes up the work. "
            "`make retrain` starts it now.",
            "",
        ]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(record) if value]
    lines += [f"\n{warning}" for warning in record.warnings]
    return "\n".join([*lines, ""])


def _rows(record: Retraining) -> list[tuple[str, str]]:
    wer = _percent(record.wer)
    if wer and record.wer_low is not None and record.wer_high is not None:
        wer += f" [{100 * record.wer_low:.1f}, {100 * record.wer_high:.1f}]"
    champion = record.champion or ""
    if champion and record.former_champion and champion != record.former_champion:
        champion += f", before that {record.former_champion}"
    return [
        ("started", f"{record.started} ({record.trigger}{', forced' if record.forced else ''})"),
        ("took", f"{record.seconds:.0f} s" if record.seconds is not None else ""),
        ("to do", "; ".join(record.why)),
        ("stages", ", ".join(f"{name} {outcome}" for name, outcome in record.stages.items())),
        ("teacher pass", _teacher(record)),
        ("data", _data(record)),
        (f"teacher's {Unit(record.unit).rate} %", _percent(record.teacher_wer)),
        ("student", record.student or ""),
        (f"its {Unit(record.unit).rate} %", wer),
        ("registered", f"version {record.version}: {record.alias}" if record.version else ""),
        ("verdict", (record.verdict or "").replace("\n", " ").replace("|", "\\|")),
        ("champion", f"version {champion}" if champion else ""),
        ("MLflow run", record.mlflow_run or ""),
        ("sent to the remote", {True: "yes", False: "no", None: ""}[record.pushed]),
        ("Git commit of dvc.lock", record.commit or ""),
    ]


def _teacher(record: Retraining) -> str:
    if record.teacher_forwards is None:
        return ""
    took = f" in {record.teacher_seconds:.1f} s" if record.teacher_seconds is not None else ""
    return f"{record.teacher_forwards} utterances{took}"


def _data(record: Retraining) -> str:
    if record.hours is None:
        return ""
    known_as = f" (DVC {record.data_md5})" if record.data_md5 else ""
    return f"{record.hours:.2f} h, {record.num_utterances} utterances{known_as}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f}"


def _record(content: Any) -> Retraining:
    """Return the run that JSON stands for.

    Raises:
        TypeError: it is no run.
    """
    if not isinstance(content, Mapping):
        raise TypeError(f"a run: {content!r}, expected an object")
    known = {item.name for item in fields(Retraining)}
    return Retraining(**{name: value for name, value in content.items() if name in known})
