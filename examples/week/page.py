"""The week as a table and as a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime

from examples.week.plan import Morning, outcome
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
([how](../examples/week/nights.py)) and is never trained again.

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
    said = f"The run reported: *{outcome(morning.record)}*."
    parts = [f"**{morning.day.name}.**", morning.day.look, said]
    return " ".join(part for part in parts if part)
