"""What training minimises, put together from losses.

L = M(output) + w_hidden · share · Hidden + w_intermediate · mean over heads of M(head)
M = (1 - share) · CTC(text) + share · (w_frame · Frame + w_sequence · CTC(teacher's texts))

A transcript takes the place of the teacher's texts, unless the settings say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distillery.distill.schedules import value_at
from distillery.losses.ctc import CTC
from distillery.losses.frames import (
    best_delay_mean,
    common_lengths,
    frame_weights,
    pool_frames,
    select_frames,
)
from distillery.losses.hidden import HiddenLoss
from distillery.losses.intermediate import IntermediateHeads
from distillery.losses.known import FRAME_LOSSES, SPARSE_FRAME_LOSSES
from distillery.losses.sequence import Sequence
from distillery.models.layers import Network, real_frames
from distillery.params.objective import ObjectiveParams, Schedule
from distillery.training.batches import Batch
from distillery.training.objective import NetworkOutputs, Objective

OWN_STREAM = 2**32  # no seed that a person would choose: networks begin from those


class DistillationObjective(Objective):
    """CTC on transcripts mixed with losses against the teacher's cached outputs.

    A term is computed in every step or in none, so that its curve is whole: a schedule may weigh
    it with 0 for a while.
    """

    def __init__(
        self,
        params: ObjectiveParams,
        rate_ratio: int,
        *,
        sparse_targets: bool = False,
        hidden: HiddenLoss | None = None,
        heads: IntermediateHeads | None = None,
    ) -> None:
        """Prepare the terms whose weights are above 0 at any time.

        Args:
            params: weights and settings of the terms.
            rate_ratio: teacher frames per student frame; 1 if targets are sparse.
            sparse_targets: whether batches hold the teacher's likeliest tokens alone.
            hidden: the term of hidden states, where it counts.
            heads: heads on hidden layers, where they count.
        """
        super().__init__()
        self.params = params
        self.rate_ratio = rate_ratio
        self.ctc = CTC()
        losses = SPARSE_FRAME_LOSSES if sparse_targets else FRAME_LOSSES
        self.frame = losses[params.frame.type](params.frame)
        self.sequence = Sequence()
        self.hidden = hidden
        self.heads = heads

    @classmethod
    def for_network(
        cls,
        network: Network,
        params: ObjectiveParams,
        rate_ratio: int,
        *,
        sparse_targets: bool,
        teacher_widths: Mapping[str, int],
        num_tokens: int,
        seed: int,
    ) -> DistillationObjective:
        """Return the objective of one network, its own parameters drawn from their own stream.

        Args:
            network: the student.
            params: weights and settings of the terms.
            rate_ratio: teacher frames per student frame.
            sparse_targets: whether batches hold the teacher's likeliest tokens alone.
            teacher_widths: widths of the teacher's cached hidden layers by name.
            num_tokens: size of the vocabulary.
            seed: of the training run. What everybody else draws stays as it is.

        Raises:
            ModelError: the network has no layer of a name that the settings give.
        """
        hidden, heads = None, None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + OWN_STREAM)
            if params.uses_hidden:
                mine = network.widths(tuple(params.hidden.layers))
                hidden = HiddenLoss(params.hidden, rate_ratio, mine, teacher_widths)
            if params.uses_heads:
                layers = params.intermediate.layers
                heads = IntermediateHeads(layers, network.widths(layers), num_tokens)
        return cls(params, rate_ratio, sparse_targets=sparse_targets, hidden=hidden, heads=heads)

    @property
    def layers(self) -> tuple[str, ...]:
        """The student's layers that the hidden term and the heads read."""
        hidden = self.hidden.layers if self.hidden else ()
        heads = self.heads.layers if self.heads else ()
        return tuple(dict.fromkeys([*hidden, *heads]))

    def forward(self, outputs: NetworkOutputs, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by name, `loss` among them, each a scalar `()`.

        `teacher_share` is among them where it has a schedule.
        """
        share = value_at(self.params.teacher_share, outputs.progress)
        loss, terms = self._mix(outputs.log_probs, share, outputs, batch)
        if self.hidden is not None:
            weight = value_at(self.params.hidden.weight, outputs.progress)
            terms["hidden"] = self.hidden(
                outputs.hidden, outputs.lengths, batch.teacher_hidden, batch.teacher_lengths
            )
            loss = loss + share * weight * terms["hidden"]
        if self.heads is not None:
            weight = value_at(self.params.intermediate.weight, outputs.progress)
            mixed = [self._mix(x, share, outputs, batch)[0] for x in self.heads(outputs.hidden)]
            terms["intermediate"] = torch.stack(mixed).mean()
            loss = loss + weight * terms["intermediate"]
        if isinstance(self.params.teacher_share, Schedule):
            terms["teacher_share"] = loss.new_tensor(share)
        return {"loss": loss, **terms}

    def _mix(
        self, log_probs: Tensor, share: float, outputs: NetworkOutputs, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of an output or a head `(batch, frames, vocab)`, and its terms."""
        params, lengths, terms = self.params, outputs.lengths, {}
        loss, counted = log_probs.new_zeros(()), None
        if params.uses_transcripts:
            terms["ctc"], counted = self.ctc.count(
                log_probs, lengths, batch.labels, batch.label_lengths
            )
            loss = loss + (1 - share) * terms["ctc"]
        if params.uses_frames:
            terms["frame"] = self._frame_term(log_probs, lengths, batch)
            weight = value_at(params.frame.weight, outputs.progress)
            loss = loss + share * weight * terms["frame"]
        if params.uses_sequence:
            terms["sequence"] = self.sequence(
                log_probs,
                lengths,
                batch.hypotheses,
                batch.hypothesis_lengths,
                batch.hypothesis_weights,
                counted,
            )
            weight = value_at(params.sequence.weight, outputs.progress)
            loss = loss + share * weight * terms["sequence"]
        return loss, terms

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
