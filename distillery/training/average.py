"""A running average of a network's weights, which is what is validated and kept.

Source: Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging"; as an
exponential average beside Adam in Tarvainen and Valpola (2017), "Mean teachers are better role
models", arXiv 1703.01780.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from distillery.models.layers import Network


@dataclass
class RunningAverage:
    """Weights of the last steps, each counting for less the longer it is ago.

    The running statistics of batch normalisation are averaged like weights: they are means over
    steps already, and the averaged weights' own are near them while weights move slowly.
    """

    steps: int
    """About how many steps back it reaches; 0 averages nothing."""
    state: dict[str, Tensor]
    """By the names of the network's state."""
    count: int = 0
    """Steps that it has seen."""
    put_aside: dict[str, Tensor] | None = None
    """A network's own weights while it has these; None: it has its own."""

    @classmethod
    def of(cls, network: Network, steps: int) -> RunningAverage:
        """Start with a network's present weights."""
        state = network.state_dict() if steps else {}
        return cls(steps, {name: tensor.detach().clone() for name, tensor in state.items()})

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Take the weights after a step into it.

        Formula: a := a + (w - a) · max(1 / steps, 1 / (n + 1)), n the steps before this one: the
        plain mean of all, until there have been `steps`, so that first weights fade at once.
        """
        if not self.steps:
            return
        weight = max(1 / self.steps, 1 / (self.count + 1))
        self.count += 1
        own = network.state_dict()
        for name, average in self.state.items():
            if average.dtype.is_floating_point:
                average.lerp_(own[name], weight)
            else:
                average.copy_(own[name])  # counters

    @contextmanager
    def in_place_of(self, network: Network) -> Iterator[None]:
        """Lend a network the averaged weights."""
        if not self.steps:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(self.state)
        self.put_aside = own
        yield
        self.put_aside = None
        network.load_state_dict(own)

    def own_weights(self, network: Network) -> dict[str, Tensor]:
        """Return a network's own weights, also while it has the averaged ones."""
        return network.state_dict() if self.put_aside is None else self.put_aside

    def restore(self, state: Mapping[str, Tensor], count: int) -> None:
        """Go on from what a checkpoint holds.

        Raises:
            ValueError: it holds weights of other names.
        """
        if state.keys() != self.state.keys():
            raise ValueError(f"an average of {len(self.state)} tensors is expected")
        self.state, self.count = dict(state), count
