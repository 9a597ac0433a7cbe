"""Distillery's trainer on the task: features packed, the teacher's outputs from its cache.

    python -m benchmarks.peers.ours TASK

Every epoch is a training of its own from the first weights, so that making the trainer, a
validation of two utterances and a checkpoint, which the peers are spared, count against us.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from benchmarks.peers.material import Material
from benchmarks.peers.shared import epochs, first_loss, say
from distillery.models.layers import Network
from distillery.training.objective import NetworkOutputs, Objective


def loss_before_training(material: Material, network: Network, objective: Objective) -> float:
    """Return the loss of the first batch."""
    data = material.training_set()
    batch = data.batch(data.plan(0)[0])

    def loss() -> torch.Tensor:
        with network.recording(objective.layers) as states:
            scores, lengths = network(batch.features, batch.feature_lengths)
        outputs = NetworkOutputs(scores.log_softmax(dim=-1), lengths, states, 0.0)
        return objective(outputs, batch)["loss"]

    return first_loss(network, loss)


def main() -> None:
    """Say the loss before any step, then train an epoch for each line."""
    torch.set_num_threads(1)
    material = Material.read(Path(sys.argv[1]))
    say(loss=loss_before_training(material, *material.beginning()))
    data = material.training_set()
    for _ in epochs():
        network, objective = material.beginning()
        material.digits.train(network, data, objective, material.training)


if __name__ == "__main__":
    main()
