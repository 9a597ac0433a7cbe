"""How far a training has come inside an epoch, so that a checkpoint there can be gone on from.

Order, crops and the like of an epoch follow from the seed, its number and the step. What does not
is here: sums over the steps so far, and the state of PyTorch's generators, which dropout and
SpecAugment draw from and each epoch seeds once. Nothing in a training draws from the global
generators of NumPy or Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from distillery.data.scoring import Counts

CPU = "cpu"
NO_ERRORS = Counts(0, 0, 0, 0)


@dataclass
class EpochState:
    """What has been done of an epoch; at its beginning nothing has."""

    num_steps: int = 0
    """Taken; all of them while the validation split is decoded."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of each term of the loss over these steps, by its name."""
    learning_rate: float = 0.0
    """Of the last step."""
    num_validated: int = 0
    """Batches of the validation split that have been decoded."""
    errors: Counts = NO_ERRORS
    """In these."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """State of PyTorch's generators after these steps, by device, as it was last taken."""

    @classmethod
    def restored(cls, saved: Any) -> Self:
        """Return what a checkpoint holds: fields by name, as `dataclasses.asdict` gives them."""
        return cls(**{**saved, "errors": Counts(**saved["errors"])})

    def add_step(self, terms: Mapping[str, Tensor], learning_rate: float) -> None:
        """Count a step.

        Args:
            terms: of its loss, each a scalar `()`.
            learning_rate: its step size.
        """
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        self.learning_rate = learning_rate
        self.num_steps += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the steps so far."""
        return {name: value / self.num_steps for name, value in self.sums.items()}

    def add_validated(self, errors: Counts, num_batches: int) -> None:
        """Count batches of the validation split, and the errors in them."""
        self.errors = self.errors + errors
        self.num_validated += num_batches

    def take_random(self, device: str) -> None:
        """Note the state of the generators that training on a device draws from."""
        self.random = {CPU: torch.get_rng_state()}
        if device != CPU:
            self.random[device] = torch.cuda.get_rng_state(device)

    def put_random(self, device: str) -> None:
        """Let training on a device draw what comes after these steps.

        A checkpoint of another kind of device says nothing of this one's generator, which stays as
        the epoch's seed has it: results differ between the two in any case.
        """
        if CPU in self.random:
            torch.set_rng_state(self.random[CPU].cpu())  # loaded with the weights, onto the device
        if device != CPU and device in self.random:
            torch.cuda.set_rng_state(self.random[device].cpu(), device)
