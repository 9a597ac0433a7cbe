import pytest
import torch

from distillery.errors import CacheMismatch
from distillery.losses.frames import common_lengths, pool_frames, select_frames


def log_probs_of(best: list[int], vocab: int = 3) -> torch.Tensor:
    """One utterance `(1, frames, vocab)` whose likeliest tokens are given."""
    scores = torch.zeros(1, len(best), vocab)
    scores[0, torch.arange(len(best)), torch.tensor(best)] = 5.0
    return scores.log_softmax(dim=-1)


def test_symmetric_selection_keeps_neighbours_of_spikes_on_both_sides() -> None:
    teacher = log_probs_of([0, 0, 0, 1, 0, 0, 0, 0, 2, 0])
    lengths = torch.tensor([10])
    selected = select_frames(teacher, lengths, "symmetric", 1)
    assert selected[0].tolist() == [
        False,
        False,
        True,
        True,
        True,
        False,
        False,
        True,
        True,
        True,
    ]
    spikes_only = select_frames(teacher, lengths, "symmetric", 0)
    assert spikes_only[0].nonzero().flatten().tolist() == [3, 8]
    assert select_frames(teacher, lengths, "all", 1).all()


def test_padding_is_never_selected_and_never_selects() -> None:
    teacher = log_probs_of([0, 1, 0, 2, 2])
    selected = select_frames(teacher, torch.tensor([3]), "symmetric", 1)
    assert selected[0].tolist() == [True, True, True, False, False]
    assert select_frames(teacher, torch.tensor([2]), "all", 0).sum() == 2


def test_pooling_keeps_every_spike_and_renormalises() -> None:
    teacher = log_probs_of([0, 1, 0, 0, 2])
    pooled, lengths = pool_frames(teacher, torch.tensor([5]), 2)
    assert lengths.tolist() == [3]
    assert pooled.argmax(dim=-1)[0, 1:].tolist() == [0, 2]
    assert pooled[0, 0, 1] == pooled[0, 0, 0]  # the spike stands beside the blank it met
    torch.testing.assert_close(pooled.exp().sum(dim=-1), torch.ones(1, 3))


def test_pooling_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 7, 4).log_softmax(dim=-1)
    pooled, lengths = pool_frames(teacher, torch.tensor([7, 4]), 3)
    assert lengths.tolist() == [3, 2]
    for row, length in enumerate([7, 4]):
        for frame in range(int(lengths[row])):
            piece = teacher[row, 3 * frame : min(3 * frame + 3, length)]
            expected = piece.max(dim=0).values.log_softmax(dim=-1)
            torch.testing.assert_close(pooled[row, frame], expected)


def test_pooling_by_one_changes_nothing() -> None:
    teacher = log_probs_of([0, 1, 2])
    pooled, lengths = pool_frames(teacher, torch.tensor([3]), 1)
    assert pooled is teacher
    assert lengths.tolist() == [3]


def test_one_frame_of_difference_is_tolerated_and_two_are_refused() -> None:
    assert common_lengths(torch.tensor([5, 7]), torch.tensor([6, 7])).tolist() == [5, 7]
    with pytest.raises(CacheMismatch, match="utterance 1 of the batch: 5 student frames face 7"):
        common_lengths(torch.tensor([5, 5]), torch.tensor([6, 7]))
