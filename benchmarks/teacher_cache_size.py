"""How many bytes the teacher cache takes, and how far its answers lie from the teacher's.

    python -m benchmarks.teacher_cache_size [--workspace .] [--seconds 300] [--frames 2000]

The u8 rows use a trained teacher and the training audio of a workspace, such as this repository
after `make teacher`. The sparse rows use generated posteriors, which benchmarks/common.py
describes, and the settings that params.yaml has by default. Divergences are computed in float64.
Rows go to benchmarks/results/teacher_cache_size.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    FRAME_SHIFT_SECONDS,
    ROOT,
    copied_workspace,
    fill,
    key,
    posteriors,
    report,
    row,
    synthetic_namespace,
)
from distillery.architectures.known import TEACHERS
from distillery.data.manifest import PreparedData
from distillery.device import num_threads
from distillery.models.recogniser import Recogniser
from distillery.params.cache import CacheParams
from distillery.teacher_cache.filling.expected import payload_settings
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.filling.plan import plan_batches
from distillery.teacher_cache.shards import Entry
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher

TEMPERATURES = (1.0, 2.0, 4.0)
MAX_DIVERGENCE = 3e-5  # nats a frame
UTTERANCE_BYTES = 16
PCM_HZ, PCM_BYTES = 16_000, 2
MAX_PCM_FRACTION = 0.05
MAX_DIFFERENCE = 4e-4
FRAMES_AT_ONCE = 250


def softened(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Return log-probabilities at a temperature, float64."""
    values = log_probs.astype(np.float64) / temperature
    values -= values.max(axis=-1, keepdims=True)
    soft: np.ndarray = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return soft


def divergences(live: np.ndarray, cached: np.ndarray) -> np.ndarray:
    """Return KL(live ‖ cached) of each frame, in nats, for log-probabilities `(frames, vocab)`."""
    found: np.ndarray = (np.exp(live) * (live - cached)).sum(axis=-1)
    return found


def dense_rows(workspace: Path, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Return the rows about u8 and a trained teacher."""
    places = copied_workspace(workspace, folder, seconds)
    params = CacheParams(num_threads=1)
    fill_cache(places, load_teacher, params)
    cache = TeacherCache.open_current(places.cache)
    teacher = Recogniser.load(places.teacher, TEACHERS)
    rows = PreparedData.open(places.data).split("train")
    frames = int(cache.num_frames(cache.all_rows).sum())
    vocab = len(cache.namespace.tokens)
    num_bytes, limit = sum(cache.data_bytes), (vocab + 4) * frames + UTTERANCE_BYTES * len(cache)
    source = (
        f"{json.loads((places.data / 'summary.json').read_text())['corpus']}: {len(cache):,} "
        f"utterances, {frames:,} frames, {teacher.architecture.type} teacher"
    )
    index = sum(item.num_bytes for item in cache.shards) / len(cache)
    return [
        row(
            f"size, V = {vocab}, {cache.namespace.payload['kind']}, a trained teacher",
            num_bytes / frames,
            "bytes a frame",
            f"at most {vocab + 4} a frame and {UTTERANCE_BYTES} an utterance",
            num_bytes <= limit,
            f"{source}; {num_bytes / len(cache):.0f} bytes an utterance, and {index:.0f} of index",
        ),
        *divergence_rows(places.data, rows, teacher, cache, params, source),
    ]


def divergence_rows(
    data: Path,
    rows: Any,
    teacher: Recogniser,
    cache: TeacherCache,
    params: CacheParams,
    source: str,
) -> list[dict[str, Any]]:
    """Return the rows about the distance from the live teacher."""
    prepared = PreparedData.open(data)
    found: dict[float, list[np.ndarray]] = {temperature: [] for temperature in TEMPERATURES}
    for batch in plan_batches(rows, params.batch_seconds):
        items = list(rows.loc[batch].itertuples())
        live = teacher.log_probs([prepared.waveform(item) for item in items])
        places = cache.rows([item.audio_key for item in items])
        for temperature, kept in found.items():
            cached = cache.targets(places, temperature).log_probs
            kept += [
                divergences(softened(item, temperature), cached[place, : len(item)])
                for place, item in enumerate(live)
            ]
    result = []
    for temperature, kept in found.items():
        values = np.concatenate(kept)
        result.append(
            row(
                f"KL(teacher ‖ cached) at temperature {temperature:g}, a trained teacher",
                values.mean(),
                "nats a frame",
                f"at most {MAX_DIVERGENCE:g}",
                values.mean() <= MAX_DIVERGENCE,
                f"{source}; 99th percentile {np.quantile(values, 0.99):.1e}, largest frame "
                f"{values.max():.1e}",
            )
        )
    return result


def sparse_rows(folder: Path, vocab: int, num_frames: int) -> list[dict[str, Any]]:
    """Return the rows about top-k and a large vocabulary."""
    random = np.random.default_rng(vocab)
    items = [posteriors(random, FRAMES_AT_ONCE, vocab) for _ in range(num_frames // FRAMES_AT_ONCE)]
    namespace = synthetic_namespace(payload_settings(CacheParams(), vocab), vocab)
    entries = [Entry(key(index), item, "", 1.0) for index, item in enumerate(items)]
    cache = fill(folder, namespace, entries)
    rows = cache.rows([entry.key for entry in entries])
    frames = FRAMES_AT_ONCE * len(items)
    per_frame = sum(cache.data_bytes) / frames
    pcm = PCM_HZ * PCM_BYTES * FRAME_SHIFT_SECONDS
    kept, worst = 0, dict.fromkeys(TEMPERATURES, 0.0)
    for place, item in zip(rows, items, strict=True):
        for temperature in TEMPERATURES:
            targets = cache.targets(np.array([place]), temperature)
            assert targets.ids is not None and targets.num_kept is not None
            wanted = np.take_along_axis(np.exp(softened(item, temperature)), targets.ids[0], axis=1)
            real = np.arange(targets.ids.shape[2]) < targets.num_kept[0][:, None]
            off = np.abs(np.exp(targets.log_probs[0]) - wanted)[real]
            worst[temperature] = max(worst[temperature], float(off.max()))
        kept += int(targets.num_kept.sum())
    generator = f"{frames:,} generated frames, 65 % confident blanks, 20 % tokens, long tails"
    return [
        row(
            f"size, V = {vocab:,}, sparse",
            100 * per_frame / pcm,
            "% of the audio's bytes",
            f"at most {100 * MAX_PCM_FRACTION:g}",
            per_frame <= MAX_PCM_FRACTION * pcm,
            f"16-bit audio at 16 kHz, a frame every {1000 * FRAME_SHIFT_SECONDS:.0f} ms: {pcm:.0f} "
            f"bytes a frame; ours {per_frame:.1f}, {kept / frames:.1f} tokens kept; {generator}",
        ),
        *(
            row(
                f"largest error of a kept probability at temperature {temperature:g}, "
                f"V = {vocab:,}, sparse",
                error,
                "probability",
                f"at most {MAX_DIFFERENCE:g}",
                error <= MAX_DIFFERENCE,
                f"softmax over the whole vocabulary in float64; {generator}",
            )
            for temperature, error in worst.items()
        ),
    ]


def measure(workspace: Path, folder: Path, seconds: float, num_frames: int) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    with num_threads(1):
        return [
            *dense_rows(workspace, folder / "dense", seconds),
            *sparse_rows(folder / "small", 1024, num_frames),
            *sparse_rows(folder / "large", 51_866, num_frames),
        ]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=ROOT)
    parser.add_argument("--seconds", type=float, default=300, help="of real audio")
    parser.add_argument("--frames", type=int, default=2000, help="of each sparse payload")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments.workspace, Path(folder), arguments.seconds, arguments.frames)
    report("teacher_cache_size", rows)


if __name__ == "__main__":
    main()
