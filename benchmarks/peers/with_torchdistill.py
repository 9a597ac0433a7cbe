"""torchdistill's DistillationBox on the task: a live teacher with a forward hook, losses in terms.

    python -m benchmarks.peers.with_torchdistill TASK plain|ours computed|memory

torchdistill 1.1.5 keeps no teacher outputs from epoch to epoch: `DistillationBox.forward_process`
asks the teacher in every step, and its loaders give recordings, not outputs. Features are computed
by the data set when they are asked for, or, with `memory`, once.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, SequentialSampler
from torchdistill.core.distillation import get_distillation_box
from torchdistill.core.interfaces.registry import register_forward_proc_func
from torchdistill.datasets.registry import register_batch_sampler, register_collate_func
from torchdistill.losses.registry import register_mid_level_loss

from benchmarks.peers.shared import (
    Task,
    ctc_loss,
    epochs,
    first_loss,
    hidden_loss,
    kl_loss,
    padded,
    say,
)

SELF, STATES = ".", "recurrent"
"""Module paths: a whole model, and the teacher's states."""


class Utterances(Dataset[tuple[Tensor, Tensor]]):
    """Features and tokens, as the task has them."""

    def __init__(self, task: Task, *, in_memory: bool) -> None:
        self.task = task
        numbers = range(len(task.utterances))
        self.tokens = [task.tokens(number) for number in numbers]
        self.held = [task.features(number) for number in numbers] if in_memory else None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        features = self.task.features(number) if self.held is None else self.held[number]
        return features, self.tokens[number]


@register_batch_sampler
class Planned(BatchSampler):
    """The batches that everybody has."""

    def __init__(self, _sampler: object, plan: list[list[int]]) -> None:
        self.plan = plan

    def __iter__(self) -> Any:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


@register_collate_func
def in_batches(
    items: list[tuple[Tensor, Tensor, dict[str, Any]]],
) -> tuple[Any, Any, dict[str, Any]]:
    """Return features with lengths, tokens with lengths, and nothing besides."""
    features, tokens, _ = zip(*items, strict=True)
    return padded(features), padded(tokens), {}


@register_forward_proc_func
def forward_features(model: nn.Module, batch: tuple[Tensor, Tensor], *_: Any, **__: Any) -> Any:
    """Return what a model says of features and lengths."""
    return model(*batch)


@register_mid_level_loss
class TranscriptCTC(nn.Module):
    """CTC on the transcripts."""

    def forward(self, student: Any, _teacher: Any, targets: Any) -> Tensor:
        scores, lengths = student[SELF]["output"][:2]
        return ctc_loss(scores.log_softmax(dim=-1), lengths, *targets)


@register_mid_level_loss
class FrameKL(nn.Module):
    """KL to the teacher's frames."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Any, teacher: Any, _targets: Any) -> Tensor:
        scores, lengths = student[SELF]["output"][:2]
        return kl_loss(scores, lengths, teacher[SELF]["output"][0], self.temperature)


@register_mid_level_loss
class HiddenStates(nn.Module):
    """Absolute error and cosine distance to the teacher's states."""

    def forward(self, student: Any, teacher: Any, _targets: Any) -> Tensor:
        _, lengths, states = student[SELF]["output"]
        return hidden_loss(states, lengths, teacher[STATES]["output"])


def train_config(task: Task) -> dict[str, Any]:
    """Return what a user of torchdistill writes in YAML."""
    terms = {
        "ctc": {"key": "TranscriptCTC", "kwargs": {}},
        "kl": {"key": "FrameKL", "kwargs": {"temperature": task.spec["temperature"]}},
        "hidden": {"key": "HiddenStates", "kwargs": {}},
    }
    sub_terms = {
        name: {"criterion": terms[name], "weight": weight} for name, weight in task.weights.items()
    }
    hook = {"forward_hook": {"output": [STATES]}} if "hidden" in task.weights else {}
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": SequentialSampler},
            "batch_sampler": {"key": "Planned", "kwargs": {"plan": task.plan}},
            "collate_fn": "in_batches",
            "kwargs": {"num_workers": 0},
        },
        "teacher": {"forward_proc": "forward_features", "requires_grad": False, **hook},
        "student": {"forward_proc": "forward_features"},
        "optimizer": {
            "key": "AdamW",
            "kwargs": task.optimiser_settings,
            "max_grad_norm": task.spec["max_gradient_norm"],
        },
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": sub_terms}},
    }


def main() -> None:
    """Say the loss before any step, then train an epoch for each line."""
    folder, layout, features = sys.argv[1:]
    logging.disable(logging.INFO)
    task = Task(Path(folder))
    utterances = Utterances(task, in_memory=features == "memory")
    student = task.student(layout)
    box = get_distillation_box(
        task.teacher(),
        student,
        {"train": utterances},
        train_config(task),
        torch.device("cpu"),
        None,
        False,
        1,
    )
    first = in_batches([(*utterances[number], {}) for number in task.plan[0]])
    say(loss=first_loss(student, lambda: box.forward_process(*first)))
    for epoch in epochs():
        box.pre_epoch_process(epoch=epoch)
        for batch, targets, others in box.train_data_loader:
            loss = box.forward_process(batch, targets, others)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()


if __name__ == "__main__":
    main()
