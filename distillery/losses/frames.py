"""Which teacher frames face which student frames, and which of them count.

Symbols: `s` student, `t` teacher; log-probabilities are `(batch, frames, vocab)`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.decoding import BLANK_INDEX
from distillery.errors import CacheMismatch
from distillery.networks import real_frames

FRAME_TOLERANCE = 1


def pool_frames(log_probs: Tensor, lengths: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """Return the teacher at `1/ratio` of its rate: maxima of `ratio` frames, renormalised.

    The maximum keeps the spikes of a CTC teacher, which an average would drown in blanks.

    Args:
        log_probs: `(batch, frames, vocab)`; what lies behind an utterance's end is ignored.
        lengths: `(batch,)`.
        ratio: teacher frames per student frame.

    Returns:
        `(batch, ceil(frames / ratio), vocab)` and lengths `(batch,)`.
    """
    if ratio == 1:
        return log_probs, lengths
    mask = real_frames(lengths, log_probs.shape[1])[..., None]
    filled = log_probs.masked_fill(~mask, float("-inf"))
    missing = -log_probs.shape[1] % ratio
    filled = F.pad(filled, (0, 0, 0, missing), value=float("-inf"))
    groups = filled.reshape(len(filled), -1, ratio, filled.shape[-1])
    pooled = groups.amax(dim=2)  # (batch, pooled frames, vocab)
    lengths = -(-lengths // ratio)
    pooled = pooled.masked_fill(~real_frames(lengths, pooled.shape[1])[..., None], 0.0)
    return pooled.log_softmax(dim=-1), lengths


def common_lengths(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the frames `(batch,)` that both have; one frame more or less is tolerated.

    Raises:
        CacheMismatch: lengths differ by more than one frame.
    """
    difference = (student - teacher).abs()
    if bool((difference > FRAME_TOLERANCE).any()):
        worst = int(difference.argmax())
        raise CacheMismatch(
            f"utterance {worst} of the batch: {int(student[worst])} student frames face "
            f"{int(teacher[worst])} teacher frames, expected at most {FRAME_TOLERANCE} of "
            "difference; check hop_seconds and time_reduction of both, then run make cache"
        )
    return torch.minimum(student, teacher)


def select_frames(teacher: Tensor, lengths: Tensor, blank_mode: str, dilation: int) -> Tensor:
    """Return the mask `(batch, frames)` of the frames that count in a frame-wise loss.

    Args:
        teacher: log-probabilities `(batch, frames, vocab)`, already at the student's rate.
        lengths: frames that exist, `(batch,)`.
        blank_mode: `all` frames, or `symmetric`: those within `dilation` frames of one whose best
            token is no blank (arXiv 2506.01503).
        dilation: frames on each side.
    """
    mask = real_frames(lengths, teacher.shape[1])
    if blank_mode == "all":
        return mask
    spikes = (teacher.argmax(dim=-1) != BLANK_INDEX) & mask
    width = 2 * dilation + 1
    grown = F.max_pool1d(spikes[:, None].float(), width, stride=1, padding=dilation)[:, 0] > 0
    return grown & mask
