"""What training minimises, as the trainer sees it; CTC on transcripts is the plain one.

What students learn from a teacher besides is in distillery/distill/objective.py, so that a teacher
depends on no loss but CTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from distillery.losses.ctc import CTC, is_alignable
from distillery.training.batches import Batch


@dataclass(frozen=True)
class NetworkOutputs:
    """What a network gave in one training step."""

    log_probs: Tensor
    """`(batch, frames, vocab)`, normalised."""
    lengths: Tensor
    """Frames `(batch,)`."""
    hidden: Mapping[str, Tensor] = field(default_factory=dict)
    """States `(batch, frames, width)` of the layers that the objective asked for."""
    progress: float = 0.0
    """Share of all steps taken before this one."""


class Objective(nn.Module):
    """What a network is trained towards. It may own parameters, which no saved model holds."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The network's hidden layers that must be recorded in each step."""
        return ()

    def forward(self, outputs: NetworkOutputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by name, `loss` among them, each a scalar `()`."""
        raise NotImplementedError

    def num_counted(self, outputs: NetworkOutputs, batch: Batch) -> Tensor:
        """Return how many utterances the terms are means over, a scalar `()`.

        Where several processes train together, this is what the terms of each count for.
        """
        raise NotImplementedError


class TranscriptObjective(Objective):
    """CTC on transcripts alone: how a teacher or a control is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.ctc = CTC()

    def forward(self, outputs: NetworkOutputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by name, `loss` among them, each a scalar `()`."""
        loss = self.ctc(outputs.log_probs, outputs.lengths, batch.labels, batch.label_lengths)
        return {"loss": loss, "ctc": loss}

    def num_counted(self, outputs: NetworkOutputs, batch: Batch) -> Tensor:
        """Return how many utterances have labels and frames enough for them, a scalar `()`."""
        return is_alignable(outputs.lengths, batch.labels, batch.label_lengths).sum()
