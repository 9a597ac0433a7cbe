"""What `dvc push` sends when a corpus has grown by a hundredth, against all that it sent before.

    python -m benchmarks.growth [--recordings 3000]

A corpus of noise is prepared, kept by DVC and pushed to an empty remote; then a hundredth more
recordings, whose names and splits fall among those that are there, are prepared and pushed. Bytes
are what the remote gained. The prepared data alone: what the cache of teacher outputs gains are
files of its own, and models are new in any case. Rows go to benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.common import report, row
from distillery.params.prepare import PrepareParams
from distillery.prepare.prepare import prepare

SECONDS, RATE_HZ = 3.0, 8000
EVERY = 100
"""One of so many recordings comes later."""
MOST = 0.02
SPLITS = ("train", "train", "train", "train", "train", "train", "train", "train", "valid", "test")
KEPT = ("data/prepared", "data/splits.csv")


def write_corpus(folder: Path, numbers: Iterable[int]) -> None:
    """Write recordings of seeded noise, where they are not there yet, and list them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, number in ((folder / f"{number:06d}.wav", number) for number in numbers):
        if not path.exists():
            noise = np.random.default_rng(number).normal(0, 0.1, round(SECONDS * RATE_HZ))
            soundfile.write(path, noise, RATE_HZ, "PCM_16")
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "text", "split"))
        for number in numbers:
            split = SPLITS[number // EVERY % len(SPLITS)]
            writer.writerow((f"{number:06d}.wav", "some words", split))


def prepare_and_push(root: Path) -> int:
    """Prepare the corpus, let DVC keep and push it; return the bytes that the remote has now."""
    params = PrepareParams(
        corpus="manifest", source="corpus", sample_rate_hz=RATE_HZ, shard_seconds=600.0
    )
    decisions = root / "data/splits.csv"
    prepare(params, root / "corpus", root / "data/prepared", root / "reports", decisions=decisions)
    dvc(root, "add", *KEPT)
    dvc(root, "push")
    return sum(path.stat().st_size for path in (root / "remote").rglob("*") if path.is_file())


def dvc(root: Path, *arguments: str) -> None:
    """Run DVC in a workspace."""
    subprocess.run([sys.executable, "-m", "dvc", "-q", *arguments], cwd=root, check=True)


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recordings", type=int, default=3000, help="default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dvc(root, "init", "--no-scm")
        dvc(root, "remote", "add", "--default", "near", str(root / "remote"))
        everything = range(options.recordings)
        late = everything[EVERY // 2 :: EVERY]
        write_corpus(root / "corpus", [number for number in everything if number not in late])
        first = prepare_and_push(root)
        write_corpus(root / "corpus", everything)
        gained = prepare_and_push(root) - first
    against = f"{first / 1e6:.0f} MB, {options.recordings} recordings of {SECONDS:g} s"
    share = gained / first
    name = f"dvc push after {len(late) / len(everything):.0%} more recordings, share of all"
    report("growth", [row(name, share, "", f"<= {MOST:g}", share <= MOST, against)])


if __name__ == "__main__":
    main()
