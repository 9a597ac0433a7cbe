"""What training minimises, put together from losses.

L = (1 - share) · CTC(text) + share · (w_frame · Frame + w_sequence · CTC(teacher's text))
"""

from __future__ import annotations

from torch import Tensor, nn

from distillery.batches import Batch
from distillery.losses import FRAME_LOSSES, SPARSE_FRAME_LOSSES
from distillery.losses.ctc import CTC
from distillery.losses.frames import (
    best_delay_mean,
    common_lengths,
    frame_weights,
    pool_frames,
    select_frames,
)
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

    def __init__(
        self, params: ObjectiveParams, rate_ratio: int, *, sparse_targets: bool = False
    ) -> None:
        """Prepare the terms whose weights are above 0.

        Args:
            params: weights and settings of the terms.
            rate_ratio: teacher frames per student frame; 1 if targets are sparse.
            sparse_targets: whether batches hold the teacher's likeliest tokens alone.
        """
        super().__init__()
        self.params = params
        self.rate_ratio = rate_ratio
        self.ctc = CTC()
        losses = SPARSE_FRAME_LOSSES if sparse_targets else FRAME_LOSSES
        self.frame = losses[params.frame.type](params.frame)

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
        params, ids, softened = self.params.frame, batch.teacher_ids, batch.teacher_softened
        teacher, teacher_lengths = pool_frames(
            batch.teacher_log_probs, batch.teacher_lengths, self.rate_ratio
        )
        common = common_lengths(lengths, teacher_lengths)
        num_frames = int(common.max())
        student, teacher = log_probs[:, :num_frames], teacher[:, :num_frames]
        if num_frames == 0:  # the teacher says nothing about any of these utterances
            return student.sum()
        targets: tuple[Tensor, ...] = (teacher,)
        if ids is not None and softened is not None:
            ids = ids[:, :num_frames]
            targets = (softened, ids)
        selected = select_frames(teacher, common, params, ids)
        weights = frame_weights(teacher, selected, params.weighting)
        values, counted = [], []
        for delay in range(min(params.delay_frames, num_frames - 1) + 1):
            facing = num_frames - delay
            values.append(self.frame(student[:, delay:], *(x[:, :facing] for x in targets)))
            counted.append(weights[:, :facing] * real_frames(common - delay, facing))
        return best_delay_mean(values, counted)
