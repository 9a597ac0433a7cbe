"""What one run of the stage `cache` did and cost: reports/cache.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from distillery.files import Json, read_json
from distillery.teacher_cache.namespace import Namespace

CACHE_REPORT_FILE = "reports/cache.json"


@dataclass(frozen=True)
class PassReport:
    """What one run of the stage did."""

    namespace: str
    num_utterances: int
    num_hits: int
    num_teacher_forwards: int
    audio_seconds: float
    """Of the utterances that met the teacher."""
    hit_audio_seconds: float
    teacher_seconds: float
    """Spent in the teacher, by all workers together."""
    wall_seconds: float
    """From the first utterance to the last shard on disk."""
    read_seconds: float
    """Reading all cached targets of the training split once, as one epoch does."""
    teacher_seconds_per_audio_second: float | None
    """Of this pass, or of the last one that ran this teacher; null when never measured."""
    manifest_sha256: str
    """Content of the whole cache."""
    languages: Mapping[str, int] = field(default_factory=dict)
    """Utterances of this pass by language, where the teacher detects it."""

    @property
    def seconds_saved(self) -> float | None:
        """Teacher time that hits made unnecessary in this pass."""
        rate = self.teacher_seconds_per_audio_second
        return None if rate is None else rate * self.hit_audio_seconds

    @property
    def break_even_epochs(self) -> int | None:
        """Epochs x students from which on caching beats running the teacher in every epoch.

        With E of them the online teacher costs E x t, the cache t + write + E x r: t for one pass
        of the teacher, r for reading the cache once. Null when that was never measured, or when
        reading costs more than the teacher.
        """
        rate = self.teacher_seconds_per_audio_second
        audio = self.audio_seconds + self.hit_audio_seconds
        if rate is None or audio == 0 or rate * audio <= self.read_seconds:
            return None
        overhead = max(1.0, self.wall_seconds / self.teacher_seconds) if self.teacher_seconds else 1
        return math.floor(overhead * rate * audio / (rate * audio - self.read_seconds)) + 1

    def to_json(self) -> Json:
        """Return what reports/cache.json holds."""
        content = asdict(self)
        if not self.languages:  # as reports were before any teacher detected them
            del content["languages"]
        return {
            **content,
            "seconds_saved": self.seconds_saved,
            "break_even_epochs": self.break_even_epochs,
        }


def former_rate(former: PassReport | None, namespace: Namespace) -> float | None:
    """Return what a pass before said of this teacher's speed; None where it is another's."""
    if former is None or former.namespace != namespace.folder_name:
        return None
    return former.teacher_seconds_per_audio_second


def read_report(path: Path) -> PassReport | None:
    """Return an earlier pass's report, or None when there is none to be read."""
    try:
        return read_json(path, PassReport)
    except (OSError, ValueError):
        return None


def describe(report: PassReport) -> list[str]:
    """Return what a pass did and whether it paid, in lines for a person."""
    lines = [
        f"teacher cache {report.namespace}: {report.num_utterances} utterances, "
        f"{report.num_hits} already there, {report.num_teacher_forwards} through the teacher "
        f"({report.audio_seconds:.0f} s of audio in {report.teacher_seconds:.1f} s)"
    ]
    if report.languages:
        heard = sorted(report.languages.items(), key=lambda item: (-item[1], item[0]))
        counts = ", ".join(f"{language} {count}" for language, count in heard)
        lines.append(
            f"languages that the teacher heard, by utterances: {counts}; teacher.language sets one"
        )
    if report.seconds_saved:
        lines.append(f"hits saved {report.seconds_saved:.1f} s of the teacher's time")
    if report.break_even_epochs is not None:
        lines.append(
            f"break-even: from {report.break_even_epochs} epochs x students on, caching is "
            f"cheaper than the teacher in every epoch; reading all of it takes "
            f"{report.read_seconds:.2f} s"
        )
    return lines
