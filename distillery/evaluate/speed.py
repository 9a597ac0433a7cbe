"""How fast a recogniser is on one CPU thread, measured so that two machines can be compared."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from distillery.device import num_threads
from distillery.errors import DistilleryError

NUM_WARM_UPS = 2
CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class SpeedResult:
    """What one recogniser needs for one recording."""

    real_time_factor: float
    """Seconds of computing per second of audio; lower is faster."""
    seconds_median: float
    """Median over the repeats, in seconds."""
    device: str
    """Processor and threads."""


def measure_real_time_factor(
    transcribe: Callable[[Sequence[np.ndarray]], object],
    waveform: np.ndarray,
    seconds: float,
    repeats: int,
) -> SpeedResult:
    """Time a recogniser from waveform to text, one recording at a time on one thread.

    Args:
        transcribe: takes a batch of waveforms; it is warmed up before it is timed.
        waveform: real speech `(samples,)`, float32.
        seconds: how long that speech lasts.
        repeats: timed passes; their median counts, so a busy moment does not.

    Raises:
        DistilleryError: there is nothing to time.
    """
    if seconds <= 0 or repeats < 1:
        raise DistilleryError(
            f"speed: {seconds} s of audio and {repeats} repeats, expected more than 0 s and at "
            "least 1 repeat; change evaluate.speed_seconds or evaluate.speed_repeats"
        )
    with num_threads(1), threadpool_limits(1):  # PyTorch's, and NumPy's
        for _ in range(NUM_WARM_UPS):
            transcribe([waveform])
        times = [_time_once(transcribe, waveform) for _ in range(repeats)]
    median = statistics.median(times)
    return SpeedResult(median / seconds, median, f"{processor_name()}, 1 thread")


def _time_once(transcribe: Callable[[Sequence[np.ndarray]], object], waveform: np.ndarray) -> float:
    started = time.perf_counter()
    transcribe([waveform])
    return time.perf_counter() - started


def processor_name() -> str:
    """Return the processor's model, or its architecture where the model is not told."""
    text = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.exists() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()
