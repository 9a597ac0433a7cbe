import itertools
import math

import pytest
import torch

from distillery.losses.ctc import CTC, ctc_per_token, is_alignable

LOSS = CTC()


def collapse(path: tuple[int, ...]) -> list[int]:
    merged = [token for token, _ in itertools.groupby(path)]
    return [token for token in merged if token != 0]


def probability_by_enumeration(log_probs: torch.Tensor, labels: list[int]) -> float:
    """Sum over every path `(frames,)` that collapses to the labels."""
    frames, vocab = log_probs.shape
    return sum(
        math.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path)))
        for path in itertools.product(range(vocab), repeat=frames)
        if collapse(path) == labels
    )


def random_log_probs(batch: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, frames, 3, generator=generator, dtype=torch.float64).log_softmax(-1)


@pytest.mark.parametrize("labels", [[1], [1, 2], [1, 1], [2, 1, 2]])
def test_it_equals_the_sum_over_all_paths(labels: list[int]) -> None:
    log_probs = random_log_probs(1, 4)
    expected = -math.log(probability_by_enumeration(log_probs[0], labels)) / len(labels)
    value = LOSS(
        log_probs,
        torch.tensor([4]),
        torch.tensor([labels]),
        torch.tensor([len(labels)]),
    )
    assert value.item() == pytest.approx(expected)


def test_utterances_without_transcript_do_not_count() -> None:
    log_probs = random_log_probs(2, 4)
    labels, lengths = torch.tensor([[1, 2], [0, 0]]), torch.tensor([4, 4])
    alone = LOSS(log_probs[:1], lengths[:1], labels[:1], torch.tensor([2]))
    assert LOSS(log_probs, lengths, labels, torch.tensor([2, -1])).item() == (
        pytest.approx(alone.item())
    )
    nothing = LOSS(log_probs, lengths, labels, torch.tensor([-1, -1]))
    assert nothing.item() == 0.0


def test_padding_does_not_change_the_loss() -> None:
    log_probs, lengths = random_log_probs(2, 4), torch.tensor([4, 3])
    labels, label_lengths = torch.tensor([[1, 2], [2, 0]]), torch.tensor([2, 1])
    pad = torch.nn.functional.pad
    padded = LOSS(
        pad(log_probs, (0, 0, 0, 3), value=-1.0),
        lengths,
        pad(labels, (0, 2)),
        label_lengths,
    )
    assert padded.item() == pytest.approx(LOSS(log_probs, lengths, labels, label_lengths).item())


def test_an_utterance_with_too_few_frames_gives_zero_not_infinity() -> None:
    log_probs = random_log_probs(1, 2)
    value = LOSS(log_probs, torch.tensor([2]), torch.tensor([[1, 1]]), torch.tensor([2]))
    assert value.item() == 0.0


def test_the_gradient_is_right() -> None:
    scores = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    lengths, labels = torch.tensor([4, 3]), torch.tensor([[1, 2], [2, 0]])
    assert torch.autograd.gradcheck(
        lambda s: LOSS(s.log_softmax(-1), lengths, labels, torch.tensor([2, 1])),
        (scores,),
    )


@pytest.mark.parametrize("text", [[1, 1, 1], [1, 2, 1, 2, 1]])
def test_an_utterance_with_too_few_frames_does_not_count(text: list[int]) -> None:
    log_probs, lengths = random_log_probs(2, 4), torch.tensor([4, 4])
    short = torch.nn.functional.pad(torch.tensor([1, 2]), (0, len(text) - 2))
    labels = torch.stack([short, torch.tensor(text)])
    alone = LOSS(log_probs[:1], lengths[:1], labels[:1], torch.tensor([2]))
    found = LOSS(log_probs, lengths, labels, torch.tensor([2, len(text)]))
    assert found.item() == pytest.approx(alone.item())


def test_padding_is_no_equal_neighbour() -> None:
    labels, label_lengths = torch.tensor([[1, 2, 2, 2]]), torch.tensor([2])
    assert is_alignable(torch.tensor([2]), labels, label_lengths).tolist() == [True]
    assert is_alignable(torch.tensor([3]), labels, torch.tensor([3])).tolist() == [False]
    assert is_alignable(torch.tensor([4]), labels, torch.tensor([-1])).tolist() == [False]
    nothing = torch.zeros(1, 0, dtype=torch.long)
    assert is_alignable(torch.tensor([4]), nothing, torch.tensor([0])).tolist() == [True]


@pytest.mark.parametrize("others", ["none", "some", "all"])
def test_equal_labels_are_counted_once_and_lose_the_same(others: str) -> None:
    """Equal ones, one without labels, too few, others of equal length, longer ones."""
    log_probs = random_log_probs(5, 4).requires_grad_()
    lengths = torch.tensor([4, 4, 4, 4, 2])
    labels = torch.tensor([[1, 2, 0], [2, 1, 2], [0, 0, 0], [1, 0, 0], [1, 1, 0]])
    label_lengths = torch.tensor([2, 3, -1, 1, 2])
    texts = {
        "none": (torch.nn.functional.pad(labels, (0, 2), value=2), label_lengths),
        "some": (
            torch.tensor([[1, 2, 1, 1], [2, 2, 1, 1], [1, 2, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]),
            torch.tensor([2, 3, 2, -1, 2]),
        ),
        "all": (labels + 1, torch.full((5,), 2)),
    }[others]
    _, counted = LOSS.count(log_probs, lengths, labels, label_lengths)
    same = {"none": [True] * 5, "some": [True, False, False, False, True], "all": [False] * 5}
    assert counted.equal(*texts).tolist() == same[others]
    found = ctc_per_token(log_probs, lengths, *texts, counted)
    plain = ctc_per_token(log_probs, lengths, *texts)
    assert torch.equal(found, plain)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=log_probs.dtype)
    ours, theirs = (torch.autograd.grad(x @ weights, log_probs)[0] for x in (found, plain))
    torch.testing.assert_close(ours, theirs)
