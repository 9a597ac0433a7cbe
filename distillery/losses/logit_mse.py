"""Mean squared error of outputs, the plain form of distillation."""

from __future__ import annotations

from torch import Tensor, nn

FLOOR = -80.0  # nats: the teacher's less likely tokens count as this; the cache's u8 has it too


class LogitMSE(nn.Module):
    """Mean squared error between the log-probabilities of teacher and student.

    Formula, for each frame: 1/V Σ_v (max(y_t(v), FLOOR) - y_s(v))². Log-probabilities stand for
    the logits because a softmax forgets a common offset, and a cache stores none. The floor keeps
    a teacher who is certain from an infinite loss.
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the error of each frame, `(batch, frames)`; 0 where both are equal.

        Args:
            student: log-probabilities `(batch, frames, vocab)`.
            teacher: the same; no gradient flows into it.
        """
        return (teacher.detach().clamp(min=FLOOR) - student).square().mean(dim=-1)
