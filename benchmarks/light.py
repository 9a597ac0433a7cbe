"""What a student costs who only wants to use it: the first text, and an hour of audio.

    python -m benchmarks.light --model models/exported/conv [--recordings a.wav …] [--rounds 5]

Each figure is of fresh processes of `distillery transcribe --model FOLDER`: CPU time and the most
memory that was resident, from the start of the interpreter to its end.

- the first text: of a recording of a few seconds, as text and with times;
- an hour: the recordings over and over, as one text, as lines of JSON and as subtitles.

Without recordings, those are seconds of noise that comes and goes. Rows go to
benchmarks/results/light.json.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.common import ROOT, report, row
from distillery.commands.transcribe import FORMATS, JSONL, TEXT
from distillery.data.audio import SECONDS_PER_HOUR, to_int16

MAX_CPU_SECONDS, MAX_FIRST_MB, MAX_HOUR_MB = 0.7, 120, 150
KILOBYTES_PER_MB = 1024
CLIP_SECONDS, RATE_HZ = 3.0, 16000


CHILD = """
import sys
from pathlib import Path
from distillery.commands.main import main
status = main(sys.argv[2:])
Path(sys.argv[1]).write_text(Path("/proc/self/status").read_text())
sys.exit(status)
"""
"""The command, which leaves behind what the system says of it: `ru_maxrss` would count what this
process holds, since a child shares its memory until it begins."""


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    cpu_seconds: float
    megabytes: float
    """Resident at most."""


def cost_of(model: Path, *arguments: str) -> Cost:
    """Return what a fresh process of the command costs; what it prints is thrown away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        status_file = Path(folder) / "status"
        command = [sys.executable, "-c", CHILD, str(status_file), "transcribe", "--model"]
        process = subprocess.Popen(
            [*command, str(model), *arguments], env=environment, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"transcribe {' '.join(arguments)}: ended with status {status}")
        found = re.search(r"VmHWM:\s+(\d+) kB", status_file.read_text())
    assert found is not None
    return Cost(usage.ru_utime + usage.ru_stime, int(found[1]) / KILOBYTES_PER_MB)


def median_cost(model: Path, rounds: int, *arguments: str) -> Cost:
    """Return the medians over several processes, after one that warms the disk's cache."""
    cost_of(model, *arguments)
    costs = [cost_of(model, *arguments) for _ in range(rounds)]
    return Cost(
        statistics.median(cost.cpu_seconds for cost in costs),
        statistics.median(cost.megabytes for cost in costs),
    )


def write_audio(folder: Path, recordings: Sequence[Path]) -> tuple[Path, Path]:
    """Write a clip and an hour into a folder."""
    clip, hour = folder / "clip.wav", folder / "hour.wav"
    if recordings:
        read = [soundfile.read(path, dtype="int16") for path in recordings]
        rate_hz = read[0][1]
        parts = [samples for samples, rate in read if rate == rate_hz and samples.ndim == 1]
    else:
        rate_hz = RATE_HZ
        noise = np.random.default_rng(0).normal(0, 0.1, round(CLIP_SECONDS * rate_hz))
        swell = np.sin(np.linspace(0, 6 * np.pi, len(noise))) ** 2
        parts = [to_int16((noise * swell).astype(np.float32))]
    soundfile.write(clip, parts[0], rate_hz)
    soundfile.write(hour, np.resize(np.concatenate(parts), SECONDS_PER_HOUR * rate_hz), rate_hz)
    return clip, hour


def rows_of(name: str, cost: Cost, against: str, cpu: float | None, mb: float | None) -> list[Any]:
    """Return the rows of one cost, with goals where there are some."""
    cpu_goal = None if cpu is None else f"<= {cpu:g} s"
    mb_goal = None if mb is None else f"<= {mb:g} MB"
    cpu_holds = None if cpu is None else cost.cpu_seconds <= cpu
    mb_holds = None if mb is None else cost.megabytes <= mb
    return [
        row(f"{name}: CPU time", cost.cpu_seconds, "s", cpu_goal, cpu_holds, against),
        row(f"{name}: memory", cost.megabytes, "MB", mb_goal, mb_holds, against),
    ]


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported student")
    parser.add_argument("--recordings", type=Path, nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clip, hour = write_audio(Path(folder), options.recordings)
        seconds = soundfile.info(clip).duration
        first = f"a recording of {seconds:.1f} s, median of {options.rounds} fresh processes"
        for form in (TEXT, JSONL):
            cost = median_cost(options.model, options.rounds, "--format", form, str(clip))
            goals = MAX_CPU_SECONDS, MAX_FIRST_MB
            rows += rows_of(f"first text, {form}", cost, first, *goals)
        against = f"{len(options.recordings) or 'no'} recordings over and over, one fresh process"
        for form in FORMATS:
            cost = cost_of(options.model, "--format", form, str(hour))
            how = "as one text" if form == TEXT else "in segments"
            rows += rows_of(f"an hour {how}, {form}", cost, against, None, MAX_HOUR_MB)
    report("light", rows)


if __name__ == "__main__":
    main()
