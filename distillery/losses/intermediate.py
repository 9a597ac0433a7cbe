"""Heads that let a student speak from its hidden layers while it trains.

Source: intermediate CTC (Lee and Watanabe 2021, arXiv 2102.03216); with a teacher, Inter-KD (Yoon
et al. 2022, arXiv 2211.15075).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class IntermediateHeads(nn.Module):
    """A linear layer from each named hidden layer to the tokens; none is kept after training."""

    def __init__(self, layers: Sequence[str], widths: Mapping[str, int], num_tokens: int) -> None:
        """Make the heads, with random weights.

        Args:
            layers: the student's layers that get one.
            widths: widths of the student's layers by name.
            num_tokens: size of the vocabulary.
        """
        super().__init__()
        self.layers = tuple(layers)
        self.heads = nn.ModuleList(nn.Linear(widths[name], num_tokens) for name in self.layers)

    def forward(self, hidden: Mapping[str, Tensor]) -> list[Tensor]:
        """Return each head's log-probabilities `(batch, frames, vocab)`.

        Args:
            hidden: states by layer, `(batch, frames, width)`.
        """
        return [
            head(hidden[name]).log_softmax(dim=-1)
            for name, head in zip(self.layers, self.heads, strict=True)
        ]
