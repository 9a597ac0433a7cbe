"""How fast the stage `prepare` is on one core, and whether its memory is bounded by a shard.

    python -m benchmarks.prepare [--source FOLDER] [--rounds 5]

Without --source, noise coloured like speech is written as FLAC and WAV; with it, the FLAC rows use
the AN4 corpus in that folder. Speeds are seconds of audio per second of CPU time, medians over the
rounds: CPU time counts one core however many threads share the work, and other programs on the
machine disturb it little. Rows go to benchmarks/results/prepare.json.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.common import ROOT, memory_mib, report, row
from distillery.data.audio import SECONDS_PER_HOUR, decode
from distillery.params.prepare import PrepareParams
from distillery.prepare import prepare as preparation

UTTERANCE_SECONDS = 5.0
NUM_UTTERANCES = 240
SHARD_SECONDS = 600.0
BYTES_PER_MIB = 2**20
MIN_SPEED = 1000.0


def write_corpus(folder: Path, num_utterances: int, rate_hz: int, kind: str) -> None:
    """Write a manifest corpus of seeded, coloured noise: every utterance differs."""
    folder.mkdir(parents=True)
    num_samples = round(UTTERANCE_SECONDS * rate_hz)
    splits = ("train", "valid", "test")
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "text", "split"))
        for index in range(num_utterances):
            noise = np.random.default_rng(index).normal(0, 1, num_samples + 31)
            speechlike = np.convolve(noise, np.hanning(32), "valid")  # most energy is low
            samples = (speechlike / np.abs(speechlike).max() * 12000).astype(np.int16)
            soundfile.write(folder / f"{index:05d}.{kind}", samples, rate_hz)
            writer.writerow((f"{index:05d}.{kind}", "some words", splits[index % 3]))


def settings(corpus: str) -> PrepareParams:
    """Return the section `prepare` that all rows share."""
    return PrepareParams(
        corpus=corpus,  # type: ignore[arg-type]  # a string is checked when the model is built
        source="corpus",
        sample_rate_hz=16000,
        shard_seconds=SHARD_SECONDS,
        max_dropped_fraction=0.0,
    )


def prepare_once(corpus: str, source: Path, output: Path) -> float:
    """Run the stage's work once, on one decoding thread; return the seconds of audio."""
    summary = preparation.prepare(settings(corpus), source, output, output.parent, num_workers=1)
    hours = sum(counts.hours for counts in summary.splits.values())
    return hours * SECONDS_PER_HOUR


def decode_all(paths: list[Path]) -> float:
    """Decode files and do nothing else; return the seconds of audio."""
    seconds = 0.0
    for path in paths:
        samples, rate_hz = decode(path)
        seconds += len(samples) / rate_hz
    return seconds


def speed(work: Callable[[], float], rounds: int) -> float:
    """Return the median of audio seconds per CPU second, after a warm-up."""
    work()
    speeds = []
    for _ in range(rounds):
        started = time.process_time()
        seconds = work()
        speeds.append(seconds / (time.process_time() - started))
    return statistics.median(speeds)


def peak_mib(source: Path, output: Path) -> float:
    """Return the peak resident memory of a fresh process that prepares a corpus."""
    command = [sys.executable, "-m", "benchmarks.prepare", "--peak-of", str(source), str(output)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def report_own_peak(source: Path, output: Path) -> None:
    """Prepare a corpus and print this process's peak resident memory in MiB."""
    prepare_once("manifest", source, output)
    print(memory_mib("VmHWM"))


def measure(folder: Path, source: Path | None, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    corpus = "manifest" if source is None else "an4"
    flac = source or folder / "flac"
    if source is None:
        write_corpus(flac, NUM_UTTERANCES, 16000, "flac")
    write_corpus(folder / "wav", NUM_UTTERANCES, 8000, "wav")
    flac_speed = speed(lambda: prepare_once(corpus, flac, folder / "p"), rounds)
    wav_speed = speed(lambda: prepare_once("manifest", folder / "wav", folder / "p"), rounds)
    flac_alone = speed(lambda: decode_all(sorted(flac.rglob("*.flac"))), rounds)
    wav_alone = speed(lambda: decode_all(sorted((folder / "wav").glob("*.wav"))), rounds)
    return [
        speed_row(f"prepare FLAC 16 kHz ({corpus})", flac_speed, f"decode alone {flac_alone:.0f}"),
        speed_row("prepare WAV 8 kHz to 16 kHz", wav_speed, f"decode alone {wav_alone:.0f}"),
        memory_row(folder),
    ]


def speed_row(name: str, value: float, against: str) -> dict[str, Any]:
    """Return one row about speed."""
    unit = "seconds of audio per CPU second"
    return row(name, value, unit, f"at least {MIN_SPEED:.0f}", value >= MIN_SPEED, against)


def memory_row(folder: Path) -> dict[str, Any]:
    """Return the row about memory: one shard of audio against four."""
    per_shard = round(SHARD_SECONDS / UTTERANCE_SECONDS)
    peaks = []
    for shards in (1, 4):
        write_corpus(folder / f"memory{shards}", per_shard * shards, 16000, "flac")
        outputs = (folder / f"memory-out{shards}-{index}" for index in range(3))
        source = folder / f"memory{shards}"
        peaks.append(statistics.median(peak_mib(source, output) for output in outputs))
    shard_mib = SHARD_SECONDS * 16000 * 2 / BYTES_PER_MIB
    growth = peaks[1] - peaks[0]
    return row(
        "prepare, peak memory of 4 shards over 1 shard",
        growth,
        "MiB",
        f"at most one shard, {shard_mib:.1f}",
        growth <= shard_mib,
        f"three shards of audio more are {3 * shard_mib:.1f}; the peak is {peaks[0]:.0f}",
    )


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of the AN4 corpus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-of", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        report_own_peak(*arguments.peak_of)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.source, arguments.rounds)
    report("prepare", rows)


if __name__ == "__main__":
    main()
