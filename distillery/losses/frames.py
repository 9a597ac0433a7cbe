"""Which teacher frames face which student frames, which of them count, and how much.

Selection and weights come from the teacher alone, after its frames are at the student's rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.errors import CacheMismatch
from distillery.models.decoding import BLANK_INDEX
from distillery.models.layers import real_frames
from distillery.params.objective import FrameLossParams

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

    An utterance with 0 teacher frames is one without teacher output: 0 come back.

    Raises:
        CacheMismatch: lengths differ by more than one frame.
    """
    difference = (student - teacher).abs().masked_fill(teacher == 0, 0)
    if bool((difference > FRAME_TOLERANCE).any()):
        worst = int(difference.argmax())
        raise CacheMismatch(
            f"utterance {worst} of the batch: {int(student[worst])} student frames for "
            f"{int(teacher[worst])} teacher frames, expected at most {FRAME_TOLERANCE} of "
            "difference; check hop_seconds and time_reduction of both, then run make cache"
        )
    return torch.minimum(student, teacher)


def select_frames(
    teacher: Tensor, lengths: Tensor, params: FrameLossParams, ids: Tensor | None = None
) -> Tensor:
    """Return the mask `(batch, frames)` of the frames that count in a frame-wise loss.

    A spike is a frame whose likeliest token is no blank. By blank mode, these frames count:

        all        every one
        nonblank   the spikes
        symmetric  those within `dilation` frames of a spike (arXiv 2506.01503)
        trim       from an utterance's first spike to its last
        threshold  those in which a blank is less likely than `blank_threshold`

    Args:
        teacher: log-probabilities `(batch, frames, vocab)`, already at the student's rate; of
            sparse targets those of the kept tokens, `(batch, frames, kept)`.
        lengths: frames that exist, `(batch,)`.
        params: the blank mode and its settings.
        ids: of sparse targets the kept tokens, `(batch, frames, kept)`, negative where a place is
            empty. A blank that is not kept counts as impossible.
    """
    mask = real_frames(lengths, teacher.shape[1])
    if params.blank_mode == "all":
        return mask
    if params.blank_mode == "threshold":
        return mask & (_blank_probabilities(teacher, ids) < params.blank_threshold)
    spikes = mask & (_best_tokens(teacher, ids) != BLANK_INDEX)
    if params.blank_mode == "nonblank":
        return spikes
    if params.blank_mode == "trim":
        since_first = spikes.cumsum(dim=1) > 0
        until_last = spikes.flip(1).cumsum(dim=1).flip(1) > 0
        return since_first & until_last
    width = 2 * params.dilation + 1
    near = F.max_pool1d(spikes[:, None].float(), width, stride=1, padding=params.dilation)[:, 0]
    return mask & (near > 0)


def _best_tokens(teacher: Tensor, ids: Tensor | None) -> Tensor:
    places = teacher.argmax(dim=-1)  # (batch, frames)
    return places if ids is None else ids.gather(-1, places[..., None])[..., 0]


def _blank_probabilities(teacher: Tensor, ids: Tensor | None) -> Tensor:
    if ids is None:
        return teacher[..., BLANK_INDEX].exp()
    return teacher.exp().masked_fill(ids != BLANK_INDEX, 0.0).sum(dim=-1)  # (batch, frames)


def frame_weights(teacher: Tensor, selected: Tensor, weighting: str) -> Tensor:
    """Return how much each frame counts `(batch, frames)`; 0 where it is not selected.

    Args:
        teacher: log-probabilities `(batch, frames, vocab)` at temperature 1, or of kept tokens.
        selected: the mask `(batch, frames)`.
        weighting: `uniform`, 1 for each; `confidence`, the probability of the likeliest token.
    """
    if weighting == "uniform":
        return selected.to(teacher.dtype)
    return teacher.amax(dim=-1).exp().masked_fill(~selected, 0.0)


def best_delay_mean(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return the weighted mean over all frames, each utterance at its best delay, `()`.

    Formula: Σ_n Σ_t w_nt l_nt(d_n) / Σ_n Σ_t w_nt, d_n = argmin_d of utterance n's own weighted
    mean. A delay at which none of an utterance's frames counts is not chosen; 0 when no frame
    counts at all.

    Args:
        values: for each delay `d`, what the student's frames t + d lose against the teacher's
            frames t: `(batch, frames - d)`. Where the weight is 0 they may hold anything.
        weights: the same shapes, 0 or more.
    """
    pairs = list(zip(values, weights, strict=True))
    sums = torch.stack([(w * v.masked_fill(w == 0, 0.0)).sum(dim=1) for v, w in pairs])
    totals = torch.stack([w.sum(dim=1) for _, w in pairs])  # (delays, batch)
    means = (sums.detach() / totals).masked_fill(totals == 0, float("inf"))
    best = means.argmin(dim=0, keepdim=True)  # (1, batch)
    total = totals.gather(0, best).sum()
    return sums.gather(0, best).sum() / total.clamp(min=torch.finfo(total.dtype).tiny)
