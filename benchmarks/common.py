"""What the benchmarks share: paired timing, synthetic caches, rows with machine and commit."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillery.commands import surroundings
from distillery.files import write_json
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.namespace import Namespace
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

FRAME_SHIFT_SECONDS = 0.04
FRAMES_PER_HOUR = 90_000
CONFIDENT_BLANKS, HESITANT_BLANKS = 0.65, 0.15  # shares of frames; the rest are tokens
TAIL_SPREAD = 3.0  # nats
# Utterances of the caches' benchmarks are slices of so many generated frames.
BASE_FRAMES, MIN_FRAMES, MAX_FRAMES = 8000, 50, 800


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call, in seconds; other programs disturb it little."""
    started = time.process_time()
    work()
    return time.process_time() - started


def paired_medians(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median CPU seconds of each job, after a warm-up."""
    columns = zip(*paired_rounds(works, rounds), strict=True)
    return [statistics.median(column) for column in columns]


def paired_rounds(works: Sequence[Callable[[], object]], rounds: int) -> list[tuple[float, ...]]:
    """Return each round's CPU seconds of each job, after a warm-up.

    All jobs take their turn in every round, so a slow phase of the machine hits all of them.
    """
    for work in works:
        work()
    return [tuple(cpu_seconds(work) for work in works) for _ in range(rounds)]


def row(
    name: str,
    value: float,
    unit: str,
    goal: str | None,
    holds: bool | None,
    against: str,
    *,
    is_goal: bool = True,
) -> dict[str, Any]:
    """Return one row of a benchmark's results.

    Args:
        name: what was measured.
        value: the figure.
        unit: its unit.
        goal: what was asked for, in words; None where nothing was.
        holds: whether it was reached; None where there is no goal.
        against: what it was compared with, or measured on.
        is_goal: False leaves goal and `holds` empty.
    """
    return {
        "name": name,
        "value": float(f"{value:.4g}"),
        "unit": unit,
        "goal": goal if is_goal else None,
        "holds": bool(holds) if is_goal and holds is not None else None,
        "against": against,
        "machine": machine(),
        "commit": commit(),
    }


def not_measured(name: str, unit: str, goal: str, why: str) -> dict[str, Any]:
    """Return the row of a goal that this machine cannot check, its value empty.

    Args:
        name: what was to be measured.
        unit: its unit.
        goal: what was asked for, in words.
        why: what the machine lacks.
    """
    return {**row(name, 0.0, unit, goal, None, why), "value": None}


def machine() -> str:
    """Return processor and interpreter in a few words, without the machine's name."""
    from distillery.evaluate.speed import processor_name  # brings PyTorch

    return f"{processor_name()}, one core, Python {platform.python_version()}"


def commit() -> str:
    """Return the revision that was measured, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit yet"


def write_rows(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows to benchmarks/results/NAME.json and return the path."""
    surroundings.settle()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_json(path, rows)
    return path


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """Write a benchmark's rows, and print them."""
    write_rows(name, rows)
    print(json.dumps(rows, indent=2, ensure_ascii=False))


def in_child(module: str, *arguments: object) -> Any:
    """Return the JSON that a benchmark prints in a fresh process."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def memory_mib(kind: str) -> float:
    """Return this process's memory of a kind that /proc/self/status names, in MiB."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def posteriors(random: np.random.Generator, frames: int, vocab: int) -> np.ndarray:
    """Return log-probabilities `(frames, vocab)`, float32, as peaky as a CTC teacher's.

    65 % of the frames are blanks with all but 1e-5 to 1e-2.5 of the mass, 15 % blanks with 0.5 to
    0.98 of it, and 20 %, at random places, tokens with 0.4 to 1. What is left of the mass goes to
    the other tokens in shares whose logarithms are normal with a standard deviation of 3 nats: a
    long tail.
    """
    kind = random.random(frames)
    confident = kind < CONFIDENT_BLANKS
    is_blank = kind < CONFIDENT_BLANKS + HESITANT_BLANKS
    best = np.where(is_blank, 0, random.integers(1, vocab, frames))
    unsure = random.uniform(np.where(is_blank, 0.5, 0.4), np.where(is_blank, 0.98, 0.9999))
    top = np.where(confident, 1 - 10 ** -random.uniform(2.5, 5, frames), unsure)
    tail = TAIL_SPREAD * random.standard_normal((frames, vocab), np.float32)
    here = np.arange(frames), best
    tail[here] = -np.inf
    sums = np.exp(tail).sum(axis=1)
    log_probs: np.ndarray = tail + (np.log1p(-top) - np.log(sums)).astype(np.float32)[:, None]
    log_probs[here] = np.log(top)
    return log_probs


def key(index: int) -> str:
    """Return the key of a synthetic utterance."""
    return hashlib.sha256(str(index).encode()).hexdigest()


def synthetic_namespace(
    payload: Mapping[str, Any], vocab: int, hidden: Mapping[str, int] | None = None
) -> Namespace:
    """Return the namespace of a teacher that does not exist."""
    tokens = tuple(f"t{index}" for index in range(vocab))
    return Namespace({}, tokens, FRAME_SHIFT_SECONDS, payload, hidden=hidden or {})


def fill(root: Path, namespace: Namespace, entries: Iterable[Entry]) -> TeacherCache:
    """Return a cache of these entries, in shards of an hour."""
    cache = TeacherCache.create(root, namespace)
    write_all(cache, entries)
    cache.reload()
    return cache


def write_all(cache: TeacherCache, entries: Iterable[Entry]) -> None:
    """Write shards of an hour."""
    remaining = iter(entries)
    while write_shard(cache, remaining):
        pass


def write_shard(cache: TeacherCache, entries: Iterable[Entry]) -> bool:
    """Write one shard of an hour; return whether anything was left to write."""
    frames = 0
    with cache.writing() as writer:
        for entry in entries:
            writer.add(entry)
            frames += len(entry.log_probs)
            if frames >= FRAMES_PER_HOUR:
                return True
    return False


def copied_workspace(workspace: Path, folder: Path, seconds: float) -> Places:
    """Return places with a workspace's teacher, so much of its training audio, and no cache.

    The utterances are drawn at random. The teacher's fingerprint is taken anew, and the audio is
    linked, not copied.
    """
    from distillery.architectures.known import TEACHERS
    from distillery.data.manifest import MANIFEST_FILE, SUMMARY_FILE, PreparedData
    from distillery.models.fingerprint import fingerprint
    from distillery.models.recogniser import Recogniser

    source, places = Places.in_workspace(workspace.resolve()), Places.in_workspace(folder)
    if not source.teacher.exists():
        raise SystemExit(
            f"error: {source.teacher}: no teacher there; run make teacher, or give --workspace"
        )
    places.data.mkdir(parents=True)
    places.teacher.mkdir(parents=True)
    train = PreparedData.open(source.data).split("train").drop_duplicates("audio_key")
    drawn = train.sample(len(train), random_state=0)
    drawn = drawn[drawn["duration_seconds"].cumsum() <= seconds]
    drawn.sort_index().to_parquet(places.data / MANIFEST_FILE)
    for path in [source.data / SUMMARY_FILE, *source.data.glob("*.pcm")]:
        (places.data / path.name).symlink_to(path)
    teacher = Recogniser.load(source.teacher, TEACHERS)
    teacher.save(places.teacher)
    fingerprint(teacher).save(places.teacher)
    return places
