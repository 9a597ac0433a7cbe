"""Kullback-Leibler divergence with temperature, after Hinton et al. (2015), arXiv 1503.02531.

Both classes compute, for each frame,

    T² Σ_v p_T(v) log(p_T(v) / q_T(v)),  p_T = softmax(log p / T), q_T = softmax(log q / T)

where the factor T² keeps the gradient's size as T changes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST = -1e4  # nats: where a teacher is sure, 0 x LEAST is 0 and 0 x -inf would be no number


class FrameKL(nn.Module):
    """KL(teacher ‖ student) over the whole vocabulary; 0 where both are equal."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence of each frame, `(batch, frames)`.

        Args:
            student: log-probabilities `(batch, frames, vocab)`.
            teacher: the same; no gradient flows into it.
        """
        p = (teacher.detach() / self.temperature).log_softmax(dim=-1)
        q = (student / self.temperature).log_softmax(dim=-1)
        divergence = (p.exp() * (p.clamp(min=LEAST) - q)).sum(dim=-1)  # (batch, frames)
        return self.temperature**2 * divergence


class SparseKL(nn.Module):
    """KL(teacher ‖ student) where the teacher gives the mass of some tokens and not of the others.

    All tokens that the teacher does not give count as one, the ghost, for both:

        T² ( Σ_{v∈K} p_T(v) log(p_T(v) / q_T(v)) + p_T(ghost) log(p_T(ghost) / q_T(ghost)) )

    with q_T(ghost) = Σ_{v∉K} q_T(v). It equals FrameKL where K is the whole vocabulary and never
    exceeds it (data-processing inequality: Cover and Thomas, Elements of Information Theory).
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """Return the divergence of each frame, `(batch, frames)`.

        Args:
            student: log-probabilities `(batch, frames, vocab)`.
            teacher: log-probabilities of the kept tokens `(batch, frames, kept)`, already at the
                temperature and normalised over the whole vocabulary. Where rounding lets a frame
                hold more than one, it is normalised again. No gradient flows into it.
            ids: the kept tokens, `(batch, frames, kept)`; negative where a place is empty.
        """
        q = (student / self.temperature).log_softmax(dim=-1)
        real, vocab = ids >= 0, student.shape[-1]
        told = torch.zeros(*q.shape[:2], vocab + 1, dtype=torch.bool, device=q.device)
        told = told.scatter(-1, torch.where(real, ids, vocab), True)[..., :vocab]
        all_told = told.all(dim=-1)  # (batch, frames)
        # A sum over the other tokens and not 1 - Σ_K: that would lose a small ghost altogether.
        ghost = q.masked_fill(told, float("-inf")).logsumexp(dim=-1).masked_fill(all_told, 0.0)
        q = torch.cat([q.gather(-1, ids.clamp(min=0)), ghost[..., None]], dim=-1)
        p = teacher.detach().exp().masked_fill(~real, 0.0)
        rest = (1 - p.sum(dim=-1)).clamp(min=0.0).masked_fill(all_told, 0.0)
        p = torch.cat([p, rest[..., None]], dim=-1)  # (batch, frames, kept + 1)
        p = p / p.sum(dim=-1, keepdim=True)
        return self.temperature**2 * (torch.xlogy(p, p) - p * q).sum(dim=-1)
