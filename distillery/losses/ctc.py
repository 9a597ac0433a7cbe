"""CTC: -log p(labels | input), after Graves et al. (2006)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillery.models.decoding import BLANK_INDEX


def is_alignable(lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Tensor:
    """Return where CTC has something to learn, bool `(batch,)`: labels, and frames enough for them.

    Each label takes a frame, and so does the blank between two equal ones. Arguments as of
    `ctc_per_token`.
    """
    places = torch.arange(1, max(1, labels.shape[1]), device=labels.device)  # (tokens - 1,)
    equal = (labels[:, 1:] == labels[:, :-1]) & (places < label_lengths[:, None])
    return (label_lengths >= 0) & (label_lengths + equal.sum(dim=1) <= lengths)


@dataclass(frozen=True)
class Counted:
    """What some labels lose already, so that equal ones need not be counted again."""

    labels: Tensor
    """Token indices `(batch, tokens)`, any padding behind."""
    label_lengths: Tensor
    """`(batch,)`; negative where an utterance has none."""
    losses: Tensor
    """Of `ctc_per_token`, `(batch,)`."""

    def equal(self, labels: Tensor, label_lengths: Tensor) -> Tensor:
        """Return which utterances have the same labels here and there, bool `(batch,)`."""
        width = min(labels.shape[1], self.labels.shape[1])  # longer ones are of another length
        places = torch.arange(width, device=labels.device)
        same = (labels[:, :width] == self.labels[:, :width]) | (places >= label_lengths[:, None])
        return same.all(dim=1) & (label_lengths == self.label_lengths)


def ctc_per_token(
    log_probs: Tensor,
    lengths: Tensor,
    labels: Tensor,
    label_lengths: Tensor,
    counted: Counted | None = None,
) -> Tensor:
    """Return -log p(y_n | x_n) / max(1, |y_n|) of each utterance, `(batch,)`.

    It is 0 without labels, and where an utterance has too few frames for them.

    Args:
        log_probs: `(batch, frames, vocab)`, normalised.
        lengths: frames `(batch,)`.
        labels: token indices `(batch, tokens)`, any padding behind.
        label_lengths: `(batch,)`; negative where an utterance has no labels at all.
        counted: of the same `log_probs` and `lengths`. A teacher's text mostly is the transcript,
            and the two sums over paths are a sixth of a small student's step.
    """
    if counted is not None:
        same = counted.equal(labels, label_lengths)
        (others,) = torch.nonzero(~same, as_tuple=True)
        if len(others) < len(same):
            known = counted.losses.masked_fill(~same, 0.0)
            if len(others) == 0:
                return known
            found = ctc_per_token(
                log_probs[others], lengths[others], labels[others], label_lengths[others]
            )
            return known.index_add(0, others, found)
    lengths_or_zero = label_lengths.clamp(min=0)
    losses = F.ctc_loss(
        log_probs.transpose(0, 1),
        labels,
        lengths,
        lengths_or_zero,
        blank=BLANK_INDEX,
        reduction="none",
        zero_infinity=True,
    )  # (batch,)
    per_token = losses / lengths_or_zero.clamp(min=1)
    return torch.where(label_lengths >= 0, per_token, torch.zeros_like(per_token))


class CTC(nn.Module):
    """CTC per label token, averaged over the utterances that have labels.

    Formula: 1/N Σ_n -log p(y_n | x_n) / max(1, |y_n|), over the N utterances with labels and frames
    enough for them. It is 0 when there is none.
    """

    def forward(
        self, log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor
    ) -> Tensor:
        """Return the loss, a scalar `()`; arguments as of `ctc_per_token`."""
        return self.count(log_probs, lengths, labels, label_lengths)[0]

    def count(
        self, log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor
    ) -> tuple[Tensor, Counted]:
        """Return the loss, a scalar `()`, and what each utterance loses."""
        losses = ctc_per_token(log_probs, lengths, labels, label_lengths)
        count = is_alignable(lengths, labels, label_lengths).sum().clamp(min=1)
        return losses.sum() / count, Counted(labels, label_lengths, losses)
