"""What a checkpoint inside an epoch costs, and so what `training.checkpoint_seconds` costs.

    python -m benchmarks.checkpoints [--rounds 5]

A checkpoint holds the weights, their average, the best epoch's and the optimiser's two moments of
each. Networks of the ready settings, and one with ten million weights, by which larger ones can be
judged, write theirs into a temporary folder: CPU time, as the writing itself waits for a disk that
others use, too. Rows go to benchmarks/results/checkpoints.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import ROOT, cpu_seconds, report, row
from distillery.architectures.known import STUDENTS, TEACHERS
from distillery.data.text import Vocabulary
from distillery.models.layers import Network
from distillery.params.file import PARAMS_FILE
from distillery.params.stages import DistillStageParams
from distillery.params.teacher import TrainedTeacherParams
from distillery.params.training import EveryTrainingParams, TrainingParams
from distillery.training.batches import TrainingSet
from distillery.training.curves import Curves, Validation
from distillery.training.objective import TranscriptObjective
from distillery.training.trainer import Trainer

SECONDS = EveryTrainingParams().checkpoint_seconds
MAX_SHARE = 0.02
LETTERS = "abcdefghijklmnopqrstuvwxyz'"
LARGE = 10_000_000


class ManyWeights(Network):
    """So many weights, in one layer."""

    time_reduction = 1

    def __init__(self, num_weights: int) -> None:
        super().__init__()
        self.output = nn.Linear(1000, num_weights // 1000, bias=False)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(batch, frames, num_weights / 1000)` and their lengths `(batch,)`."""
        return self.output(features), lengths


def networks(large: int) -> dict[str, Network]:
    """Return networks by what they are called; the last one has so many weights."""
    settings = DistillStageParams.load(ROOT / PARAMS_FILE)
    teacher, tokens = settings.teacher, len(Vocabulary.from_alphabet(LETTERS))
    assert isinstance(teacher, TrainedTeacherParams)
    found: dict[str, Network] = {
        f"student {name}": STUDENTS[student.architecture.type](
            student.architecture, settings.distill.features_of(name).num_mels, tokens
        )
        for name, student in settings.distill.students.items()
    }
    found["teacher"] = TEACHERS[teacher.architecture.type](
        teacher.architecture, teacher.features.num_mels, tokens
    )
    return {**found, "network": ManyWeights(large)}


def trained(network: Network, folder: Path) -> Trainer:
    """Return a training that has taken a step and validated, as far as a checkpoint can tell."""
    nothing = TrainingSet([], [], 0.01, 1.0, 0)
    trainer = Trainer(
        network,
        nothing,
        TranscriptObjective(),
        Validation(nothing, [], Vocabulary.from_alphabet(LETTERS)),
        TrainingParams(num_threads=1, device="cpu"),
        folder / "run.pt",
        Curves(folder / "curves.jsonl"),
        "run",
    )
    for parameter in trainer.parameters:
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimiser.step()
    trainer.best_state = {name: value.clone() for name, value in network.state_dict().items()}
    return trainer


def measure(folder: Path, rounds: int, large: int = LARGE) -> list[dict[str, Any]]:
    """Return a row for each network."""
    rows = []
    for name, network in networks(large).items():
        trainer = trained(network, folder)
        trainer._save()
        seconds = statistics.median(cpu_seconds(trainer._save) for _ in range(rounds))
        weights = sum(parameter.numel() for parameter in network.parameters())
        size = trainer.checkpoint.stat().st_size
        rows.append(
            row(
                f"a checkpoint of a {name} of {weights / 1e6:.2f} million weights",
                1000 * seconds,
                "ms of CPU time",
                f"at most {MAX_SHARE:.0%} of {SECONDS:g} s",
                seconds <= MAX_SHARE * SECONDS,
                f"{seconds / SECONDS:.4%} of the time between two; {size / 1e6:.1f} MB",
            )
        )
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.rounds)
    report("checkpoints", rows)


if __name__ == "__main__":
    main()
