"""What was said about utterances follows when they are cut and joined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distillery.augmentations.retiming import (
    Piece,
    join_hypotheses,
    join_tokens,
    retime,
    what_is_known,
)
from distillery.losses.frames import pool_frames
from distillery.losses.hidden import mean_frames
from distillery.training.batches import Batch, pad_hypotheses, pad_tokens

SPACE = 1
BETWEEN = [SPACE]


def batch(lengths: list[int], **changes) -> Batch:
    """Return targets whose numbers tell row and frame: 10·row + frame + 1."""
    frames = torch.zeros(len(lengths), max(lengths), 1)
    for row, length in enumerate(lengths):
        frames[row, :length, 0] = 10 * row + torch.arange(length) + 1
    labels = [[2, 3], [4], None][: len(lengths)]
    hypotheses = [[([2], 0.75), ([3], 0.25)], [([4], 1.0)], []][: len(lengths)]
    nothing = torch.zeros(len(lengths), 0, 0)
    whole = Batch(
        nothing,
        torch.zeros(len(lengths), dtype=torch.long),
        *pad_tokens(labels),
        frames,
        torch.tensor(lengths),
        *pad_hypotheses(hypotheses),
        teacher_hidden={"last": 2 * frames.half()},
    )
    return replace(whole, **changes)


def whole(position: int, num_frames: int) -> Piece:
    return Piece(position, 0, num_frames, is_whole=True)


def numbers(values: torch.Tensor) -> list[list[int]]:
    return values[..., 0].long().tolist()


def test_pieces_follow_one_another_with_zeros_behind() -> None:
    pieces = [[whole(1, 2), whole(0, 3)], [Piece(2, 1, 2, is_whole=False)]]
    moved = retime(batch([3, 2, 4]), pieces, 1, BETWEEN)
    assert moved.teacher_lengths.tolist() == [5, 2]
    assert numbers(moved.teacher_log_probs) == [[11, 12, 1, 2, 3], [22, 23, 0, 0, 0]]
    assert numbers(moved.teacher_hidden["last"]) == [[22, 24, 2, 4, 6], [44, 46, 0, 0, 0]]
    assert moved.labels.tolist() == [[4, SPACE, 2, 3], [0, 0, 0, 0]]
    assert moved.label_lengths.tolist() == [4, -1]
    assert moved.hypotheses.tolist() == [[[4, SPACE, 2], [4, SPACE, 3]], [[0, 0, 0]] * 2]
    assert moved.hypothesis_lengths.tolist() == [[3, 3], [-1, -1]]
    assert moved.hypothesis_weights.tolist() == [[0.75, 0.25], [0.0, 0.0]]


def test_whole_utterances_stay_what_they_are() -> None:
    plain = batch([3, 2, 4])
    same = retime(plain, [[whole(0, 3)], [whole(1, 2)], [whole(2, 4)]], 1, BETWEEN)
    for name in ("labels", "label_lengths", "teacher_log_probs", "teacher_lengths"):
        assert torch.equal(getattr(same, name), getattr(plain, name))
    for name in ("hypotheses", "hypothesis_lengths", "hypothesis_weights"):
        assert torch.equal(getattr(same, name), getattr(plain, name))


@pytest.mark.parametrize(
    ("held", "expected"),
    [(4, [1, 2, 3, 4]), (3, [1, 2, 3, 3]), (2, [1, 2, 2, 2]), (5, [1, 2, 3, 4])],
)
def test_an_utterance_fills_its_last_frame_before_another_begins(
    held: int, expected: list[int]
) -> None:
    """Of the two frames' difference that is tolerated, one is cut off or repeated."""
    moved = retime(batch([held, 3]), [[whole(0, 2), whole(1, 2)]], 2, BETWEEN)
    assert numbers(moved.teacher_log_probs) == [[*expected, 11, 12, 13]]
    assert moved.teacher_lengths.tolist() == [7]


def test_pooling_joined_frames_is_joining_pooled_ones() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(2, 5, 3).log_softmax(dim=-1)
    lengths = torch.tensor([5, 4])
    plain = batch([5, 4], teacher_log_probs=log_probs, teacher_hidden={"last": log_probs})
    moved = retime(plain, [[whole(0, 3), whole(1, 2)]], 2, BETWEEN)
    alone, alone_lengths = pool_frames(log_probs, lengths, 2)
    assert alone_lengths.tolist() == [3, 2]
    pooled, pooled_lengths = pool_frames(moved.teacher_log_probs, moved.teacher_lengths, 2)
    assert pooled_lengths.tolist() == [5]
    torch.testing.assert_close(pooled[0], torch.cat([alone[0], alone[1, :2]]))
    means, _ = mean_frames(log_probs, lengths, 2)
    joined, _ = mean_frames(moved.teacher_hidden["last"], moved.teacher_lengths, 2)
    torch.testing.assert_close(joined[0], torch.cat([means[0], means[1, :2]]))


def test_sparse_targets_follow_and_empty_places_stay_empty() -> None:
    ids = torch.tensor([[[5, 6], [7, -1], [8, 9]], [[3, -1], [-1, -1], [-1, -1]]])
    values = ids.float()
    plain = batch([3, 1], teacher_log_probs=values, teacher_ids=ids, teacher_softened=2 * values)
    moved = retime(plain, [[Piece(0, 1, 2, is_whole=False)], [whole(1, 1)]], 1, BETWEEN)
    assert moved.teacher_ids is not None and moved.teacher_softened is not None
    assert moved.teacher_ids.tolist() == [[[7, -1], [8, 9]], [[3, -1], [-1, -1]]]
    assert moved.teacher_softened.tolist() == [[[14, -2], [16, 18]], [[6, -2], [0, 0]]]


def test_a_teacher_that_says_nothing_says_nothing_afterwards() -> None:
    silent = batch([3, 2], teacher_lengths=torch.tensor([0, 0]))
    moved = retime(silent, [[whole(0, 3), whole(1, 2)]], 1, BETWEEN)
    assert moved.teacher_lengths.tolist() == [0]
    no_frames = batch([3, 2], teacher_log_probs=torch.zeros(2, 0, 0), teacher_hidden={})
    moved = retime(no_frames, [[whole(0, 3), whole(1, 2)]], 1, BETWEEN)
    assert moved.teacher_log_probs.shape == (1, 0, 0)


def test_kinds_tell_what_may_be_joined() -> None:
    plain = batch([3, 2, 4])
    assert what_is_known(plain, whole(0, 3)) == (True, True, True, True)
    assert what_is_known(plain, whole(2, 4)) == (True, False, False, True)
    assert what_is_known(plain, Piece(0, 1, 1, is_whole=False)) == (False, False, False, True)


def test_an_empty_text_leaves_no_space_behind() -> None:
    assert join_tokens([[2, 3], [4]], BETWEEN) == [2, 3, SPACE, 4]
    assert join_tokens([[], [4]], BETWEEN) == [4]
    assert join_tokens([[2], []], BETWEEN) == [2]
    assert join_tokens([[], []], BETWEEN) == []
    assert join_tokens([[2, 3], [], [4]], []) == [2, 3, 4]  # subwords say where words begin


def test_the_likeliest_combinations_are_kept() -> None:
    """0.6·0.9, 0.4·0.9, 0.6·0.1 and 0.4·0.1: the first two weigh 0.54 and 0.36 of 0.9."""
    one, two = [([2], 0.6), ([3], 0.4)], [([4], 0.9), ([5], 0.1)]
    tokens, weights = zip(*join_hypotheses([one, two], BETWEEN), strict=True)
    assert tokens == ([2, SPACE, 4], [3, SPACE, 4])
    assert weights == pytest.approx((0.6, 0.4))
    assert join_hypotheses([one], BETWEEN) == one
