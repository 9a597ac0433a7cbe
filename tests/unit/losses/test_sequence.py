import math

import pytest
import torch
from torch.nn.functional import pad

from distillery.losses.ctc import CTC
from distillery.losses.sequence import Sequence
from tests.unit.losses.test_ctc import probability_by_enumeration, random_log_probs

LOSS = Sequence()
LENGTHS = torch.tensor([4, 3])
TEXTS = [[[1, 2], [1], [2, 1, 2]], [[2], []]]
HYPOTHESES = torch.tensor([[[1, 2, 0], [1, 0, 0], [2, 1, 2]], [[2, 0, 0], [0, 0, 0], [0, 0, 0]]])
HYPOTHESIS_LENGTHS = torch.tensor([[2, 1, 3], [1, 0, -1]])
WEIGHTS = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], dtype=torch.float64)
TARGETS = (HYPOTHESES, HYPOTHESIS_LENGTHS, WEIGHTS)


def test_it_equals_the_weighted_sum_over_all_paths_of_all_hypotheses() -> None:
    log_probs = random_log_probs(2, 4)
    expected = 0.0
    for row, texts in enumerate(TEXTS):
        for text, weight in zip(texts, WEIGHTS[row].tolist(), strict=False):
            real = log_probs[row, : LENGTHS[row]]
            nats = -math.log(probability_by_enumeration(real, text))
            expected += weight * nats / max(1, len(text)) / 2
    assert LOSS(log_probs, LENGTHS, *TARGETS).item() == pytest.approx(expected)


def test_one_hypothesis_of_weight_one_is_ctc_to_the_last_bit() -> None:
    log_probs = random_log_probs(3, 4).float()
    lengths, texts = torch.tensor([4, 3, 4]), torch.tensor([[1, 2], [2, 0], [0, 0]])
    text_lengths = torch.tensor([2, 1, -1])
    weights = torch.tensor([[1.0], [1.0], [0.0]])
    found = LOSS(log_probs, lengths, texts[:, None], text_lengths[:, None], weights)
    assert torch.equal(found, CTC()(log_probs, lengths, texts, text_lengths))


def test_an_utterance_without_hypotheses_does_not_count() -> None:
    log_probs = random_log_probs(2, 4)
    lengths, weights = HYPOTHESIS_LENGTHS.clone(), WEIGHTS.clone()
    lengths[1], weights[1] = -1, 0.0
    alone = LOSS(log_probs[:1], LENGTHS[:1], *(x[:1] for x in TARGETS))
    torch.testing.assert_close(LOSS(log_probs, LENGTHS, HYPOTHESES, lengths, weights), alone)
    lengths[0], weights[0] = -1, 0.0
    assert LOSS(log_probs, LENGTHS, HYPOTHESES, lengths, weights).item() == 0.0


def test_padding_does_not_change_the_loss() -> None:
    log_probs = random_log_probs(2, 4)
    padded = LOSS(
        pad(log_probs, (0, 0, 0, 3), value=-1.0),
        LENGTHS,
        pad(HYPOTHESES, (0, 2, 0, 1), value=1),
        pad(HYPOTHESIS_LENGTHS, (0, 1), value=-1),
        pad(WEIGHTS, (0, 1)),
    )
    torch.testing.assert_close(padded, LOSS(log_probs, LENGTHS, *TARGETS))


def test_a_hypothesis_longer_than_the_student_has_frames_for_adds_nothing() -> None:
    log_probs = random_log_probs(1, 2)
    targets = (torch.tensor([[[1, 1], [1, 0]]]), torch.tensor([[2, 1]]), torch.tensor([[0.6, 0.4]]))
    expected = -0.4 * math.log(probability_by_enumeration(log_probs[0], [1]))
    assert LOSS(log_probs, torch.tensor([2]), *targets).item() == pytest.approx(expected)


def test_an_utterance_whose_hypotheses_are_all_too_long_does_not_count() -> None:
    log_probs, lengths = random_log_probs(2, 2), torch.tensor([2, 2])
    texts = torch.tensor([[[1, 0]], [[1, 1]]])
    text_lengths, sure = torch.tensor([[1], [2]]), torch.ones(2, 1)
    alone = LOSS(log_probs[:1], lengths[:1], texts[:1], text_lengths[:1], sure[:1])
    torch.testing.assert_close(LOSS(log_probs, lengths, texts, text_lengths, sure), alone)


def test_the_gradient_is_right() -> None:
    scores = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: LOSS(s.log_softmax(-1), LENGTHS, *TARGETS), (scores,))
