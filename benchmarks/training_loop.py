"""What the trainer costs beside the training: per step, and before the first step.

    python -m benchmarks.training_loop [--source FSDD] [--rounds 5]

The loop is timed with a network of one layer on batches held in memory, against a bare loop of the
same steps: forward, loss, backward, clipping, AdamW. The start is `python -m tasks.distill` in a
workspace of digits whose features an earlier run packed, until its first step is done, as a whole
and against a process that imports torch and torchaudio; both are timed by their CPU time. Rows go
to benchmarks/results/training_loop.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.common import ROOT, paired_rounds, report, row
from benchmarks.digits import FEATURES, STUDENT, TRAINING, Digits, recordings
from benchmarks.training_epoch import HeldBatches
from distillery.files import write_json
from distillery.models.layers import Network
from distillery.params.file import PARAMS_FILE
from distillery.params.training import SpecAugmentParams, TrainingParams
from distillery.training.batches import Batch
from distillery.training.objective import NetworkOutputs, Objective

NUM_CLIPS = 600
NUM_EPOCHS = 10
MAX_STEP_MS = 0.3
MAX_START_SECONDS = 2.0
MAX_WHOLE_START_SECONDS = 2.5
IMPORTS = "import time, torch, torchaudio; print(time.process_time())"
FIRST_STEP = "CPU seconds until the first step:"
UNTIL_FIRST_STEP = f"""
import os, runpy, sys, time, torch
step = torch.optim.AdamW.step
def last_step(*arguments, **options):
    step(*arguments, **options)
    print("{FIRST_STEP}", time.process_time(), flush=True)
    os._exit(0)
torch.optim.AdamW.step = last_step
sys.argv = ["distill", "conv", "0"]
runpy.run_module("tasks.distill", run_name="__main__")
"""


class OneLayer(Network):
    """The least that can be trained."""

    time_reduction = 1

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(FEATURES.num_mels, 2)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(batch, frames, 2)` and their lengths `(batch,)`."""
        return self.output(features), lengths


class MeanScore(Objective):
    """An objective that costs next to nothing."""

    def forward(self, outputs: NetworkOutputs, _batch: Batch) -> dict[str, Tensor]:
        """Return the one term, a scalar `()`."""
        return {"loss": outputs.log_probs.mean()}


def bare_loop(data: HeldBatches, training: TrainingParams) -> Callable[[], None]:
    """Return the job of the same steps without a trainer around them."""

    def work() -> None:
        network = OneLayer()
        optimiser = torch.optim.AdamW(network.parameters(), lr=training.learning_rate)
        for epoch in range(training.most_epochs):
            for items in data.plan(epoch):
                batch = data.batch(items)
                scores, _ = network(batch.features, batch.feature_lengths)
                optimiser.zero_grad()
                scores.log_softmax(dim=-1).mean().backward()
                nn.utils.clip_grad_norm_(network.parameters(), training.max_gradient_norm)
                optimiser.step()

    return work


def loop_row(digits: Digits, rounds: int) -> dict[str, Any]:
    """Return the row about a step; the epoch's end is spread over its steps."""
    masks = SpecAugmentParams(num_time_masks=0, num_frequency_masks=0)
    training = TRAINING.model_copy(update={"num_epochs": NUM_EPOCHS, "specaugment": masks})
    data = digits.training_set(None, kind=HeldBatches)

    def trained() -> None:
        digits.train(OneLayer(), data, MeanScore(), training)

    times = paired_rounds([trained, bare_loop(data, training)], rounds)
    steps = sum(len(data.plan(epoch)) for epoch in range(NUM_EPOCHS))
    value = 1000 * statistics.median(ours - bare for ours, bare in times) / steps
    bare = 1000 * statistics.median(bare for _, bare in times) / steps
    return row(
        "a step of the trainer beyond one of a bare loop",
        value,
        "ms of CPU time",
        f"at most {MAX_STEP_MS:g}",
        value <= MAX_STEP_MS,
        f"bare loop {bare:.3f} ms a step; network of one layer, {steps} steps in {NUM_EPOCHS} "
        "epochs, each with a validation and a checkpoint",
    )


def write_settings(digits: Digits) -> Path:
    """Make a workspace whole, so that the stage `distill` runs in it; return its folder."""
    root = digits.places.data.parents[1]
    features = FEATURES.model_dump()
    settings = {
        "prepare": {"corpus": "fsdd", "source": str(digits.source)},
        "teacher": {
            "architecture": digits.teacher.architecture.model_dump(),
            "features": features,
        },
        "cache": {},
        "distill": {
            "filter": {"enabled": False},  # weights are random, no text is fit
            "features": features,
            "training": {"num_threads": 1, "batch_seconds": digits.batch_seconds},
            "students": {"conv": {"architecture": STUDENT.model_dump()}},
        },
        "evaluate": {},
        "register": {"decoder": False},
    }
    (root / PARAMS_FILE).write_text(yaml.safe_dump(settings), "utf-8")
    shutil.copy(ROOT / "dvc.yaml", root)
    # What the stages fetch and teacher leave, too.
    (root / "models/registered/students").mkdir(parents=True, exist_ok=True)
    write_json(root / "models/teacher/validation.json", {"wer": 0.0})
    return root


def measured_start(digits: Digits, rounds: int) -> list[dict[str, Any]]:
    """Return the rows about the time from the command to the first step."""
    root = write_settings(digits)
    digits.cache_pass()
    first = seconds_to_first_step(root)
    times = [(seconds_to_first_step(root), seconds_to_import(root)) for _ in range(rounds)]
    return start_rows(first, times, len(digits.rows))


def start_rows(
    first: float, times: list[tuple[float, float]], num_utterances: int
) -> list[dict[str, Any]]:
    """Return those rows: with the imports of torch and torchaudio, and without.

    Args:
        first: CPU seconds of the run that packed the features.
        times: of every round's run, and of its imports.
        num_utterances: how many were packed.
    """
    value = statistics.median(ours - imports for ours, imports in times)
    imports = statistics.median(imports for _, imports in times)
    whole = statistics.median(ours for ours, _ in times)
    name, unit = (
        "from `python -m tasks.distill` to the end of the first step",
        "seconds of CPU time",
    )
    return [
        row(
            f"{name}, beyond the imports",
            value,
            unit,
            f"at most {MAX_START_SECONDS:g}",
            value <= MAX_START_SECONDS,
            f"import of torch and torchaudio {imports:.2f} s; the first run, which packs the "
            f"features of {num_utterances:,} utterances, {first - imports:.2f} s",
        ),
        row(
            f"{name}, imports included",
            whole,
            unit,
            f"at most {MAX_WHOLE_START_SECONDS:g}",
            whole <= MAX_WHOLE_START_SECONDS,
            f"import of torch and torchaudio alone {imports:.2f} s",
        ),
    ]


def seconds_to_import(root: Path) -> float:
    """Return the CPU time of a process that only imports."""
    return float(output_of(root, "-c", IMPORTS))


def seconds_to_first_step(root: Path) -> float:
    """Return the CPU time of the stage `distill` up to the end of its first step."""
    output = output_of(root, "-c", UNTIL_FIRST_STEP)
    return float(output.rsplit(FIRST_STEP, 1)[1])


def output_of(root: Path, *arguments: str) -> str:
    """Return what a fresh interpreter prints in a workspace."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DVC_STAGE", None)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def measure(source: Path, folder: Path, rounds: int, **sizes: Any) -> list[dict[str, Any]]:
    """Return the rows of the report."""
    digits = Digits.fsdd(source, folder, NUM_CLIPS, **sizes)
    return [loop_row(digits, rounds), *measured_start(digits, rounds)]


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="folder of FSDD; holds recordings/")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    source = recordings(arguments.source)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(source, Path(folder), arguments.rounds)
    report("training_loop", rows)


if __name__ == "__main__":
    main()
