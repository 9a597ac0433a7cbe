"""What training minimises, put together from losses.

L = (1 - share) · CTC(text) + share · (w_frame · Frame + w_sequence · CTC(teacher's text))
"""

from __future__ import annotations

from torch import Tensor, nn

from distillery.batches import Batch
from distillery.losses import FRAME_LOSSES
from distillery.losses.ctc import CTC
from distillery.losses.frames import common_lengths, pool_frames, select_frames
from distillery.networks import real_frames
from distillery.params import ObjectiveParams


class TranscriptObjective(nn.Module):
    """CTC on transcripts alone: how a teacher or a control is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.ctc = CTC()

    def forward(self, log_probs: Tensor, lengths: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by name, `loss` among them, each a scalar `()`."""
        loss = self.ctc(log_probs, lengths, batch.labels, batch.label_lengths)
        return {"loss": loss, "ctc": loss}


class DistillationObjective(nn.Module):
    """CTC on transcripts mixed with losses against the teacher's cached outputs."""

    def __init__(self, params: ObjectiveParams, rate_ratio: int) -> None:
        """Prepare the terms whose weights are above 0.

        Args:
            params: weights and settings of the terms.
            rate_ratio: teacher frames per student frame.
        """
        super().__init__()
        self.params = params
        self.rate_ratio = rate_ratio
        self.ctc = CTC()
        self.frame = FRAME_LOSSES[params.frame.type](params.frame)

    def forward(self, log_probs: Tensor, lengths: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by name, `loss` among them, each a scalar `()`."""
        share, terms = self.params.teacher_share, {}
        loss = log_probs.new_zeros(())
        if share < 1:
            terms["ctc"] = self.ctc(log_probs, lengths, batch.labels, batch.label_lengths)
            loss = loss + (1 - share) * terms["ctc"]
        if share > 0 and self.params.frame.weight > 0:
            terms["frame"] = self._frame_term(log_probs, lengths, batch)
            loss = loss + share * self.params.frame.weight * terms["frame"]
        if share > 0 and self.params.sequence.weight > 0:
            terms["sequence"] = self.ctc(
                log_probs, lengths, batch.hypotheses, batch.hypothesis_lengths
            )
            loss = loss + share * self.params.sequence.weight * terms["sequence"]
        return {"loss": loss, **terms}

    def _frame_term(self, log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        teacher, teacher_lengths = pool_frames(
            batch.teacher_log_probs, batch.teacher_lengths, self.rate_ratio
        )
        common = common_lengths(lengths, teacher_lengths)
        num_frames = int(common.max())
        student, teacher = log_probs[:, :num_frames], teacher[:, :num_frames]
        teacher = teacher.masked_fill(~real_frames(common, num_frames)[..., None], 0.0)
        selected = select_frames(
            teacher, common, self.params.frame.blank_mode, self.params.frame.dilation
        )
        term: Tensor = self.frame(student, teacher, selected)
        return term
