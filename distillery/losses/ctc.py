"""CTC: -log p(labels | input), after Graves et al. (2006)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillery.decoding import BLANK_INDEX


class CTC(nn.Module):
    """CTC per label token, averaged over the utterances that have labels.

    Formula: 1/N Σ_n -log p(y_n | x_n) / max(1, |y_n|), over the N utterances with labels and
    enough frames for them; 0 when there is none.
    """

    def forward(
        self, log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor
    ) -> Tensor:
        """Return the loss, a scalar `()`.

        Args:
            log_probs: `(batch, frames, vocab)`, normalised.
            lengths: frames `(batch,)`.
            labels: token indices `(batch, tokens)`, any padding behind.
            label_lengths: `(batch,)`; negative where an utterance has no labels at all.
        """
        has_labels = label_lengths >= 0
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
        count = has_labels.sum().clamp(min=1)
        return torch.where(has_labels, per_token, torch.zeros_like(per_token)).sum() / count
