"""How the step size changes while a network trains.

With a known number of epochs: warm-up, then half a cosine (Loshchilov and Hutter, 2017, "SGDR",
arXiv 1608.03983). A cosine needs its end, so where validation decides the end it is warm-up and a
constant stretch until validation has stopped improving. What the cosine's fall gives, the average
of the weights gives then; without one there is a cooldown: warmup-stable-decay (Hu et al., 2024,
"MiniCPM", arXiv 2404.06395), falling as 1 - sqrt, which Hägele et al. (2024, "Scaling Laws and
Compute-Optimal Training Beyond Fixed Training Durations", arXiv 2405.18392) find as good as a
cosine of that length, and better than a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distillery.params.training import TrainingParams
from distillery.training.convergence import first_plateau

LEAST_SHARE = 0.01
"""Of the peak: where a warm-up by progress begins, and where a cosine ends."""


@dataclass(frozen=True)
class Cooldown:
    """The last stretch of a training whose validation has stopped improving."""

    begins: int
    """Epochs before it."""
    length: int
    """Epochs that it takes."""
    converged: bool
    """Whether validation had stopped improving; else the maximum of epochs was near."""

    @property
    def ends(self) -> int:
        """Epochs of the whole training."""
        return self.begins + self.length


def cosine_share(progress: float, warmup: float) -> float:
    """Return the share of the peak: a rise over the warm-up, then half a cosine to 1 %.

    Args:
        progress: share of all steps taken before this one.
        warmup: share of all steps in which it rises.
    """
    if progress < warmup:
        return max(progress / warmup, LEAST_SHARE)
    phase = (progress - warmup) / max(1e-9, 1 - warmup)
    return LEAST_SHARE + (1 - LEAST_SHARE) * 0.5 * (1 + math.cos(math.pi * phase))


def stable_share(step: int, warmup_steps: int, epoch: float, cooldown: Cooldown | None) -> float:
    """Return the share of the peak: a rise over the warm-up, 1, then 1 - sqrt of the cooldown.

    Args:
        step: steps taken before this one.
        warmup_steps: steps in which it rises.
        epoch: epochs before this step, a part of one included.
        cooldown: where it falls; None: it is not known yet.
    """
    share = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    if cooldown is None or epoch <= cooldown.begins:
        return share
    return share * (1 - math.sqrt(min(1.0, (epoch - cooldown.begins) / cooldown.length)))


def cooldown_of(rates: Sequence[float], params: TrainingParams) -> Cooldown | None:
    """Return where the step size falls, as far as the validation so far tells; None: not yet.

    It begins once validation has stopped improving, or as late as the maximum of epochs allows, and
    what came after its beginning does not move it: a run that goes on decides as an unbroken one.

    Args:
        rates: of errors on the validation split after each epoch, as fractions.
        params: of a training whose `num_epochs` is auto.
    """
    most, fraction = params.max_epochs, params.cooldown_share
    latest = max(1, most - math.ceil(most * fraction / (1 + fraction)))
    plateau = first_plateau(rates, params.patience)
    if plateau is not None and plateau <= latest:
        length = max(1, round(fraction * plateau)) if fraction else 0
        return Cooldown(plateau, min(length, most - plateau), True)
    return Cooldown(latest, most - latest, False) if len(rates) >= latest else None
