"""Batches whose utterances are cut and joined: everything that was said about them follows.

Frames are the student's unless the teacher's are named. An utterance that is followed by another
fills its last student frame: what the teacher said last is repeated until the student's frame is
full, which changes neither the maximum nor, beyond a weight, the mean that pooling takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distillery.training.batches import NO_LABELS, Batch, pad_hypotheses, pad_tokens

Hypotheses = list[tuple[list[int], float]]


@dataclass(frozen=True)
class Piece:
    """An utterance of a batch, or a stretch of one."""

    position: int
    """In the batch."""
    start: int
    """First frame of the student."""
    num_frames: int
    """Frames of the student."""
    is_whole: bool
    """Whether its texts are valid."""


def what_is_known(batch: Batch, piece: Piece) -> tuple[bool, bool, bool, bool]:
    """Return which kinds of targets a piece has; only pieces of one kind may be joined."""
    row = piece.position
    has_labels = bool(batch.label_lengths[row] != NO_LABELS)
    has_hypotheses = bool(batch.hypothesis_lengths[row, 0] != NO_LABELS)
    has_frames = bool(batch.teacher_lengths[row] > 0)
    return (
        piece.is_whole,
        piece.is_whole and has_labels,
        piece.is_whole and has_hypotheses,
        has_frames,
    )


def retime(
    batch: Batch, groups: Sequence[Sequence[Piece]], rate_ratio: int, between: Sequence[int]
) -> Batch:
    """Return the batch's targets for pieces that follow one another; features are left alone.

    Args:
        batch: of whole utterances.
        groups: for each row of the new batch its pieces, all of one kind.
        rate_ratio: teacher frames per frame of the student.
        between: the tokens that stand between two texts.
    """
    labels, label_lengths = pad_tokens([_labels(batch, group, between) for group in groups])
    hypotheses = pad_hypotheses([_hypotheses(batch, group, between) for group in groups])
    frames = [_teacher_frames(batch.teacher_lengths, group, rate_ratio) for group in groups]

    def moved(values: Tensor, padding: float = 0.0) -> Tensor:
        if not values.shape[1]:  # an objective without a term of frames reads none
            return values.new_zeros(len(groups), *values.shape[1:])
        return pad_sequence([values[rows, places] for rows, places in frames], True, padding)

    return replace(
        batch,
        labels=labels,
        label_lengths=label_lengths,
        hypotheses=hypotheses[0],
        hypothesis_lengths=hypotheses[1],
        hypothesis_weights=hypotheses[2],
        teacher_log_probs=moved(batch.teacher_log_probs),
        teacher_lengths=torch.tensor([len(places) for _, places in frames]),
        teacher_ids=None if batch.teacher_ids is None else moved(batch.teacher_ids, -1),
        teacher_softened=None if batch.teacher_softened is None else moved(batch.teacher_softened),
        teacher_hidden={name: moved(states) for name, states in batch.teacher_hidden.items()},
    )


def _teacher_frames(
    lengths: Tensor, group: Sequence[Piece], rate_ratio: int
) -> tuple[Tensor, Tensor]:
    """Return the row and the frame `(teacher_frames,)` of all that the teacher says of a group."""
    rows, places = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, dtype=torch.long)]
    for piece in group:
        held = int(lengths[piece.position])
        start, end = piece.start * rate_ratio, (piece.start + piece.num_frames) * rate_ratio
        if held <= start:
            continue  # the teacher has no output for it
        if piece is group[-1]:
            end = min(end, held)
        places.append(torch.arange(start, end).clamp(max=held - 1))
        rows.append(torch.full((end - start,), piece.position))
    return torch.cat(rows), torch.cat(places)


def _labels(batch: Batch, group: Sequence[Piece], between: Sequence[int]) -> list[int] | None:
    if not what_is_known(batch, group[0])[1]:
        return None
    texts = [
        batch.labels[piece.position, : batch.label_lengths[piece.position]].tolist()
        for piece in group
    ]
    return join_tokens(texts, between)


def _hypotheses(batch: Batch, group: Sequence[Piece], between: Sequence[int]) -> Hypotheses:
    if not what_is_known(batch, group[0])[2]:
        return []
    return join_hypotheses([_hypotheses_of(batch, piece.position) for piece in group], between)


def _hypotheses_of(batch: Batch, row: int) -> Hypotheses:
    lengths, weights = batch.hypothesis_lengths[row].tolist(), batch.hypothesis_weights[row]
    return [
        (batch.hypotheses[row, place, :length].tolist(), float(weights[place]))
        for place, length in enumerate(lengths)
        if length != NO_LABELS
    ]


def join_tokens(texts: Sequence[list[int]], between: Sequence[int]) -> list[int]:
    """Return texts one after another, `between` between any two that are not empty."""
    joined = [[*between, *text] for text in texts if text]
    return list(itertools.chain.from_iterable(joined))[len(between) :]


def join_hypotheses(items: Sequence[Hypotheses], between: Sequence[int]) -> Hypotheses:
    """Return the likeliest ways to say utterances one after another, as many as one of them has.

    Utterances are independent: a combination weighs the product of its parts, made to add up to 1.
    """
    if len(items) == 1:
        return items[0]
    combined = []
    for combination in itertools.product(*items):
        weight = 1.0
        for _, part in combination:
            weight *= part
        combined.append((join_tokens([tokens for tokens, _ in combination], between), weight))
    kept = sorted(combined, key=lambda item: -item[1])[: max(map(len, items))]
    total = sum(weight for _, weight in kept)
    return [(tokens, weight / total) for tokens, weight in kept]
