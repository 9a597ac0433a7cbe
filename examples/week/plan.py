"""The days of the week, and what a night leaves of each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flows.looking_back.history import Retraining


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


def outcome(record: Retraining) -> str:
    """Return a night's verdict, or why it ended, in one line."""
    said = (record.verdict or record.reason).split("\n")[0].rstrip(".")
    return re.sub(r"/\S*/workspace/", "", said)  # where the clone lies is nobody's concern
