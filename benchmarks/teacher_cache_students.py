"""What a coarse payload costs the students: u8 against f32, seed by seed.

    python -m benchmarks.teacher_cache_students [--workspace DIR] [--student NAME] [--seeds 3]

In the workspace, `make teacher` must have run; its settings say how students are trained. For each
payload the teacher's outputs are cached in a temporary folder, and the student is trained on them
from each seed. Rows go to benchmarks/results/teacher_cache_students.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, report, row
from distillery.data.manifest import PreparedData
from distillery.data.scoring import bootstrap_interval, count_errors
from distillery.distill.distillation import Distillation
from distillery.params.file import PARAMS_FILE
from distillery.params.whole import Params
from distillery.teacher_cache.filling.expected import Places
from distillery.teacher_cache.filling.fill import fill_cache
from distillery.teacher_cache.store import TeacherCache
from distillery.teachers.kinds import load_teacher

PAYLOADS = ("u8", "f32")
NUM_RESAMPLES = 1000
BATCH = 64

Interval = tuple[float, float, float]  # WER, its lower and its upper end


def word_error_rate(run: Distillation, seed: int, payload: str) -> Interval:
    """Train one student and return its WER on the test split with the 95 % interval."""
    trained = run.train_student(run.scratch / f"{payload}-{seed}.jsonl")
    trained.checkpoint.unlink(missing_ok=True)
    rows = run.data.split("test")
    rows = rows[rows["text"].notna()]
    waveforms = [run.data.waveform(item) for item in rows.itertuples()]
    texts: list[str] = []
    for start in range(0, len(waveforms), BATCH):
        texts += trained.recogniser.transcribe(waveforms[start : start + BATCH])
    counts = [
        count_errors(reference.split(), heard.split())
        for reference, heard in zip(rows["text"], texts, strict=True)
    ]
    errors = np.array([item.errors for item in counts])
    words = np.array([item.reference_length for item in counts])
    low, high = bootstrap_interval(errors, words, NUM_RESAMPLES, 0.95, 0)
    return float(errors.sum() / words.sum()), low, high


def measure(workspace: Path, student: str, num_seeds: int, scratch: Path) -> list[dict[str, Any]]:
    """Return a row per seed, and one about all of them."""
    settings = Params.load(workspace / PARAMS_FILE)
    data = PreparedData.open(workspace / "data/prepared")
    results: dict[str, list[Interval]] = {}
    for payload in PAYLOADS:
        kept = settings.cache.payload.model_copy(update={"log_probs": payload})
        cache_params = settings.cache.model_copy(update={"payload": kept})
        places = Places(
            workspace / "data/prepared", workspace / "models/teacher", scratch / payload
        )
        fill_cache(places, load_teacher, cache_params)
        cache = TeacherCache.open_current(places.cache)
        for seed in range(num_seeds):
            run = Distillation(data, cache, student, settings.distill.for_seed(seed), scratch)
            results.setdefault(payload, []).append(word_error_rate(run, seed, payload))
            print(payload, seed, results[payload][-1], flush=True)
    corpus = settings.prepare.corpus
    rows = [
        seed_row(f"{corpus}, student {student}, seed {seed}", *pair)
        for seed, pair in enumerate(zip(*results.values(), strict=True))
    ]
    means = {kind: statistics.mean(item[0] for item in found) for kind, found in results.items()}
    spread = statistics.stdev(item[0] for item in results["f32"]) if num_seeds > 1 else 0.0
    rows.append(
        row(
            f"{corpus}, student {student}: mean WER of {num_seeds} seeds, u8 less f32",
            100 * (means["u8"] - means["f32"]),
            "points of WER",
            "every seed within the other's interval",
            all(item["holds"] for item in rows),
            f"f32: {100 * means['f32']:.2f} %, standard deviation over seeds {100 * spread:.2f}",
        )
    )
    return rows


def seed_row(name: str, u8: Interval, f32: Interval) -> dict[str, Any]:
    """Return the row of one seed."""
    holds = f32[1] <= u8[0] <= f32[2] and u8[1] <= f32[0] <= u8[2]
    return row(
        f"WER from u8, {name}",
        100 * u8[0],
        "%",
        "each within the other's 95 % interval",
        holds,
        f"f32 {100 * f32[0]:.2f} [{100 * f32[1]:.2f}, {100 * f32[2]:.2f}], "
        f"u8 [{100 * u8[1]:.2f}, {100 * u8[2]:.2f}]",
    )


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=ROOT)
    parser.add_argument("--student", default="conv")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(options.workspace, options.student, options.seeds, Path(scratch))
    report("teacher_cache_students", rows)


if __name__ == "__main__":
    main()
