"""Kullback-Leibler divergence with temperature, after Hinton et al. (2015), arXiv 1503.02531."""

from __future__ import annotations

from torch import Tensor, nn


class FrameKL(nn.Module):
    """KL(teacher ‖ student) at a temperature, averaged over the selected frames.

    Formula: T²/|S| Σ_{t∈S} Σ_v p_T log(p_T / q_T), p_T = softmax(log p / T); the factor T² keeps
    the gradient's size as T changes.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, selected: Tensor) -> Tensor:
        """Return the loss, a scalar `()`; 0 when no frame is selected.

        Args:
            student: log-probabilities `(batch, frames, vocab)`.
            teacher: the same, no gradient flows into it.
            selected: `(batch, frames)`, True where a frame counts.
        """
        p = (teacher.detach() / self.temperature).log_softmax(dim=-1)
        q = (student / self.temperature).log_softmax(dim=-1)
        divergence = (p.exp() * (p - q)).sum(dim=-1)  # (batch, frames)
        kept = divergence.masked_fill(~selected, 0.0)
        return self.temperature**2 * kept.sum() / selected.sum().clamp(min=1)
