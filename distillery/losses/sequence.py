"""CTC on the teacher's N best hypotheses, each as much as the teacher believes in it.

Source: sequence-level distillation of CTC models by N-best lists, Takashima, Li and Kawai (2018),
"An Investigation of a Knowledge Distillation Method for CTC Acoustic Models".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillery.losses.ctc import Counted, ctc_per_token, is_alignable


class Sequence(nn.Module):
    """Weighted CTC per token, averaged over the utterances that have hypotheses.

    Formula: 1/N Σ_n Σ_h w_nh · -log p(y_nh | x_n) / max(1, |y_nh|), where an utterance's weights
    add up to one; over the N utterances with hypotheses, 0 when there is none. A hypothesis that is
    longer than there are frames for adds nothing, and an utterance that has no other does not
    count. One hypothesis of weight 1 makes it CTC.
    """

    def forward(
        self,
        log_probs: Tensor,
        lengths: Tensor,
        hypotheses: Tensor,
        hypothesis_lengths: Tensor,
        weights: Tensor,
        counted: Counted | None = None,
    ) -> Tensor:
        """Return the loss, a scalar `()`.

        Args:
            log_probs: `(batch, frames, vocab)`, normalised.
            lengths: frames `(batch,)`.
            hypotheses: token indices `(batch, hypotheses, tokens)`, any padding behind.
            hypothesis_lengths: `(batch, hypotheses)`; negative where there is no hypothesis.
            weights: `(batch, hypotheses)`, 0 where there is no hypothesis.
            counted: what transcripts lose, with which equal hypotheses are not counted again.
        """
        total = log_probs.new_zeros(len(log_probs))
        counts = torch.zeros_like(lengths, dtype=torch.bool)
        for place in range(hypotheses.shape[1]):
            labels = (hypotheses[:, place], hypothesis_lengths[:, place])
            losses = ctc_per_token(log_probs, lengths, *labels, counted)
            total = total + weights[:, place] * losses  # (batch,)
            counts |= is_alignable(lengths, *labels)
        return total.sum() / counts.sum().clamp(min=1)
