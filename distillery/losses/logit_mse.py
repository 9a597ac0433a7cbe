"""Mean squared error of outputs, the plain form of distillation."""

from __future__ import annotations

from torch import Tensor, nn


class LogitMSE(nn.Module):
    """Mean squared error between the log-probabilities of teacher and student.

    Formula: L = 1/N Σ (y_t - y_s)², over the N outputs of the selected frames. Log-probabilities
    stand for the logits because a softmax forgets a common offset, and a cache stores none.
    """

    def forward(self, student: Tensor, teacher: Tensor, selected: Tensor) -> Tensor:
        """Return the loss, a scalar `()`; 0 when no frame is selected.

        Args:
            student: log-probabilities `(batch, frames, vocab)`.
            teacher: the same, no gradient flows into it.
            selected: `(batch, frames)`, True where a frame counts.
        """
        squares = (teacher.detach() - student).square().mean(dim=-1)  # (batch, frames)
        return squares.masked_fill(~selected, 0.0).sum() / selected.sum().clamp(min=1)
