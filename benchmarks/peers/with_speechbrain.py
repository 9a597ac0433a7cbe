"""SpeechBrain's Brain on the task: features and the teacher's outputs from its HDF5 cache.

    python -m benchmarks.peers.with_speechbrain TASK plain|ours

Both are items of a DynamicItemDataset behind CachedHDF5DynamicItem: they are computed once, before
the first epoch that is timed, and read from then on.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import SaveableDataLoader
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.integrations.hdf5.cached_item import CachedHDF5DynamicItem
from speechbrain.utils.data_pipeline import DynamicItem
from torch import Tensor

from benchmarks.peers.shared import (
    Task,
    ctc_loss,
    epochs,
    first_loss,
    hidden_loss,
    kl_loss,
    say,
)


def lengths_of(padded: Any) -> Tensor:
    """Return the lengths `(batch,)` that SpeechBrain keeps as shares of the longest."""
    lengths: Tensor = (padded.lengths * padded.data.shape[1]).round().long()
    return lengths


class Distilled(sb.Brain):  # type: ignore[misc]
    """A student that learns from what is cached."""

    task: Task

    def compute_forward(self, batch: Any, _stage: Any) -> tuple[Tensor, ...]:
        """Return what the student says."""
        said: tuple[Tensor, ...] = self.modules.student(batch.feats.data, lengths_of(batch.feats))
        return said

    def compute_objectives(
        self, predictions: tuple[Tensor, ...], batch: Any, _stage: Any
    ) -> Tensor:
        """Return the weighted sum of the terms `()`."""
        scores, lengths, *states = predictions
        weights, tokens = self.task.weights, batch.tokens
        log_probs = scores.log_softmax(dim=-1)
        loss = weights["ctc"] * ctc_loss(log_probs, lengths, tokens.data, lengths_of(tokens))
        teacher = batch.teacher.data
        if "kl" in weights:
            temperature = self.task.spec["temperature"]
            loss = loss + weights["kl"] * kl_loss(scores, lengths, teacher, temperature)
        if "hidden" in weights:
            loss = loss + weights["hidden"] * hidden_loss(states[0], lengths, teacher)
        return loss


def cached(folder: Path, name: str, takes: list[str], function: Any) -> CachedHDF5DynamicItem:
    """Return an item that is computed once an utterance, in a file of its own."""
    item = DynamicItem(takes=takes, func=function, provides=[name])
    return CachedHDF5DynamicItem.cache(folder, cache_filename=f"{name}.hdf5")(item)


def dataset_of(task: Task, folder: Path) -> DynamicItemDataset:
    """Return the utterances with features, tokens and what the teacher says."""
    teacher = task.teacher()
    with_states = "hidden" in task.weights

    def feats(_id: str, number: int) -> np.ndarray:
        return task.features(number).numpy()

    @torch.inference_mode()
    def said(_id: str, feats: Any) -> np.ndarray:
        features, lengths = torch.as_tensor(feats)[None], torch.tensor([len(feats)])
        with teacher.recording(["last"] if with_states else []) as hidden:
            scores, _ = teacher(features, lengths)
        values: np.ndarray = (hidden["last"] if with_states else scores.log_softmax(-1))[0].numpy()
        return values

    def tokens(number: int) -> Tensor:
        return task.tokens(number)

    rows = {row["id"]: {"number": number} for number, row in enumerate(task.utterances)}
    return DynamicItemDataset(
        rows,
        dynamic_items=[
            cached(folder, "feats", ["id", "number"], feats),
            cached(folder, "teacher", ["id", "feats"], said),
            DynamicItem(takes=["number"], func=tokens, provides=["tokens"]),
        ],
        output_keys=["feats", "teacher", "tokens"],
    )


def main() -> None:
    """Fill the cache, say the loss before any step, then train an epoch for each line."""
    folder, layout = Path(sys.argv[1]), sys.argv[2]
    logging.disable(logging.INFO)
    task = Task(folder)
    dataset = dataset_of(task, folder / f"speechbrain-{layout}")
    examples = [dataset[number] for number in range(len(dataset))]  # fills the cache
    brain = Distilled(
        modules={"student": task.student(layout)},
        opt_class=task.optimiser,
        run_opts={"device": "cpu", "max_grad_norm": task.spec["max_gradient_norm"]},
    )
    brain.task = task
    first = PaddedBatch([examples[number] for number in task.plan[0]])
    del examples

    def loss() -> Tensor:
        said = brain.compute_forward(first, sb.Stage.VALID)
        return brain.compute_objectives(said, first, sb.Stage.VALID)

    say(loss=first_loss(brain.modules, loss))
    loader = SaveableDataLoader(dataset, batch_sampler=task.plan, collate_fn=PaddedBatch)
    brain.fit(epochs(), loader, progressbar=False)


if __name__ == "__main__":
    main()
