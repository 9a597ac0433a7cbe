"""The week of examples/week.py on paper: what each day brings, and what came of it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.looking_back.history import Retraining
from flows.stages.pipeline import STAGES

PLOT_FILE = "reports/retraining.png"
NEWLINES = "\n\n"
COLUMNS = (
    "day",
    "new recordings",
    "teacher ran on",
    "stages run",
    "WER % [95 %]",
    "verdict",
    "champion",
    "took",
)


@dataclass(frozen=True)
class Day:
    """What arrives before a night, and what a person does in the morning after it."""

    name: str
    recordings: int = 0
    """New ones, with transcripts."""
    broken: int = 0
    """How many of them were cut off on their way."""
    shifted: bool = False
    """Whether each of them has the transcript of the next one."""
    mended: bool = False
    """Whether all that was broken or shifted so far comes again, as it should be."""
    rollback: bool = False
    """Whether somebody runs `make rollback` in the morning."""
    look: str = ""
    """What to look at, for a reader."""

    @property
    def arrivals(self) -> str:
        """What arrives, for a person."""
        parts = []
        if self.recordings:
            kind = ", transcripts one row off" if self.shifted else ""
            kind += f", {self.broken} of them broken" if self.broken else ""
            parts.append(f"{self.recordings}{kind}")
        if self.mended:
            parts.append("what was wrong, corrected")
        return "; ".join(parts) or "none"


WEEK = (
    Day("Monday", 80, look="The first champion. The teacher runs on everything once."),
    Day(
        "Tuesday",
        80,
        broken=1,
        look="The teacher runs on the new recordings alone. One cannot be read: it is left out and "
        "counted, and the run continues.",
    ),
    Day("Wednesday", look="Nothing new: no stage runs, and there is no MLflow run."),
    Day(
        "Thursday",
        120,
        shifted=True,
        look="Transcripts that are one row off: recordings too short for theirs are left out, from "
        "the rest a student learns nonsense. The gate keeps it from those who use the champion. "
        "The report shows the cause: the filter drops texts of the teacher that differ "
        "from their transcripts by far too many words.",
    ),
    Day(
        "Friday",
        40,
        mended=True,
        rollback=True,
        look="The same audio with right transcripts costs the teacher nothing. It runs on the "
        "new recordings, Tuesday's broken one, and those that Thursday left out. In the morning "
        "somebody rolls the new champion back.",
    ),
    Day(
        "Saturday",
        40,
        broken=30,
        look="Too many broken recordings (`prepare.max_dropped_fraction`) mean that something is "
        "wrong with the delivery: the run stops at once, and everything stays as it was.",
    ),
    Day(
        "Sunday",
        mended=True,
        look="The delivery came again. It is compared with the champion of the rollback.",
    ),
)


@dataclass(frozen=True)
class Morning:
    """What a night left."""

    day: Day
    record: Retraining
    champion: str | None
    """After the night."""
    rolled_back_to: str | None = None


def table(mornings: Sequence[Morning]) -> str:
    """Return the week as a Markdown table."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for morning in mornings:
        lines.append(_line(_cells(morning)))
        if morning.rolled_back_to is not None:
            by_hand = "`make rollback` by hand"
            cells = ["the morning after", "", "", "", "", by_hand, morning.rolled_back_to, ""]
            lines.append(_line([cell and f"*{cell}*" for cell in cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(morning: Morning) -> list[str]:
    record = morning.record
    forwards = "–"
    if record.teacher_forwards is not None:
        forwards = f"{record.teacher_forwards} ({record.teacher_seconds:.1f} s)"
    ran = {name.split("@")[0] for name, outcome in record.stages.items() if outcome == "ran"}
    wer = "–"
    if record.wer is not None:
        wer = f"{100 * record.wer:.1f}"
        if record.wer_low is not None and record.wer_high is not None:
            wer += f" [{100 * record.wer_low:.1f}, {100 * record.wer_high:.1f}]"
    return [
        morning.day.name,
        morning.day.arrivals,
        forwards,
        ", ".join(stage for stage in STAGES if stage in ran) or "none",
        wer,
        _verdict(record),
        morning.champion or "–",
        f"{record.seconds or 0:.0f} s",
    ]


def _verdict(record: Retraining) -> str:
    if record.version is None:
        return record.status
    if record.alias == "champion":
        return f"version {record.version}: yes"
    return f"version {record.version}: no"


def report(mornings: Sequence[Morning], commit: str, seconds: float, plot: str) -> str:
    """Return the week as a page.

    Args:
        mornings: what the nights left.
        commit: that was cloned.
        seconds: that all of it took, the teacher included.
        plot: file of the history's plot, beside the page.
    """
    return f"""# A week in fast motion

Written by `make week` on {datetime.now(UTC):%Y-%m-%d} at commit {commit[:12]}; it took
{seconds / 60:.0f} minutes on {os.cpu_count()} cores, the training of the teacher included.

Recordings of generated speech arrive by the day. Every night is a run of the deployment that
`make schedule` serves, with the settings of [`examples/week.yaml`](../examples/week.yaml); only its
start is not left to cron. The teacher was registered before the week
([how](../examples/week.py)) and is never trained again.

{table(mornings)}

*Teacher ran on*: recordings, and the time it took for them. *Stages run*: `teacher` trains
nothing, it measures the registered teacher on the validation split. *WER*: of the new student, on
the test split, which is the same all week. *Champion*: which version, after the night.

![The nights that ended with a student]({plot})

*The same in a picture, which every night leaves as `{PLOT_FILE}`, in MLflow and in `make report`.*

## Day by day

{NEWLINES.join(_story(morning) for morning in mornings)}
"""


def _story(morning: Morning) -> str:
    words = f"The run reported: *{said(morning.record)}*."
    parts = [f"**{morning.day.name}.**", morning.day.look, words]
    return " ".join(part for part in parts if part)


def said(record: Retraining) -> str:
    """Return a night's verdict, or why it ended, in one line."""
    words = (record.verdict or record.reason).split("\n")[0].rstrip(".")
    return re.sub(r"/\S*/workspace/", "", words)  # where the clone lies is nobody's concern
