"""How the frame-wise term meets batches: dense, sparse, pooled, delayed, or without any teacher."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from distillery.batches import Batch
from distillery.losses.kl import FrameKL
from distillery.objectives import DistillationObjective
from distillery.params import FrameLossParams, ObjectiveParams

VOCAB = 4
LENGTHS = torch.tensor([6, 4])


def log_probs(seed: int, frames: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, frames, VOCAB, generator=generator, dtype=torch.float64)
    return scores.log_softmax(dim=-1)


def batch_of(teacher: torch.Tensor, lengths: torch.Tensor = LENGTHS) -> Batch:
    """Return a batch without transcripts."""
    nothing = torch.zeros(2, 0, dtype=torch.long)
    absent = torch.full((2,), -1)
    return Batch(torch.zeros(2, 0, 3), LENGTHS, nothing, absent, teacher, lengths, nothing, absent)


def sparse_batch(teacher: torch.Tensor, temperature: float) -> Batch:
    """Return the same with all tokens kept, the likeliest first, and one empty place."""
    values, ids = teacher.sort(dim=-1, descending=True)
    softened = (teacher / temperature).log_softmax(dim=-1).gather(-1, ids)
    return replace(
        batch_of(pad(values, (0, 1), value=-1e4)),
        teacher_ids=pad(ids, (0, 1), value=-1),
        teacher_softened=pad(softened, (0, 1), value=-1e4),
    )


def frame_term(
    student: torch.Tensor, batch: Batch, *, ratio: int = 1, sparse: bool = False, **settings
) -> torch.Tensor:
    params = ObjectiveParams(teacher_share=1.0, frame=FrameLossParams(**settings))
    objective = DistillationObjective(params, ratio, sparse_targets=sparse)
    return objective(student, LENGTHS, batch)["frame"]


SETTINGS = [
    {"type": "kl"},
    {"type": "logit_mse", "blank_mode": "all"},
    {"blank_mode": "nonblank", "temperature": 1.0},
    {"blank_mode": "trim", "weighting": "confidence"},
    {"blank_mode": "threshold", "blank_threshold": 0.5},
    {"blank_mode": "all", "delay_frames": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_zero_when_student_equals_teacher(settings) -> None:
    teacher = log_probs(1)
    assert frame_term(teacher, batch_of(teacher), **settings).item() == pytest.approx(0, abs=1e-12)
    assert frame_term(log_probs(2), batch_of(teacher), **settings).item() > 0.01


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_does_not_change_it(settings) -> None:
    student, teacher = log_probs(1), log_probs(2)
    other = teacher.clone()
    other[1, 4:] = log_probs(9)[1, 4:]
    padded = batch_of(pad(other, (0, 0, 0, 3), value=-5.0))
    expected = frame_term(student, batch_of(teacher), **settings)
    found = frame_term(pad(student, (0, 0, 0, 2), value=-7.0), padded, **settings)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_gradient_is_right(settings) -> None:
    student, batch = log_probs(1).requires_grad_(), batch_of(log_probs(2))
    assert torch.autograd.gradcheck(lambda s: frame_term(s, batch, **settings), (student,))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_is_finite_for_a_certain_teacher(settings) -> None:
    teacher = torch.full((2, 6, VOCAB), -1e4, dtype=torch.float64)
    teacher[..., 2] = 0.0
    student = log_probs(1).requires_grad_()
    value = frame_term(student, batch_of(teacher), **settings)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("settings", [s for s in SETTINGS if s.get("type") != "logit_mse"], ids=str)
def test_sparse_targets_that_keep_everything_equal_dense_ones(settings) -> None:
    student, teacher = log_probs(1), log_probs(2)
    batch = sparse_batch(teacher, settings.get("temperature", 2.0))
    torch.testing.assert_close(
        frame_term(student, batch, sparse=True, **settings),
        frame_term(student, batch_of(teacher), **settings),
    )


def test_each_real_frame_counts_once() -> None:
    student, teacher = log_probs(1), log_probs(2)
    values = FrameKL(2.0)(student, teacher)
    expected = (values[0].sum() + values[1, :4].sum()) / 10
    found = frame_term(student, batch_of(teacher), blank_mode="all")
    torch.testing.assert_close(found, expected)


def test_selection_and_weights_come_from_the_pooled_teacher() -> None:
    teacher = torch.full((2, 12, VOCAB), -9.0, dtype=torch.float64)
    teacher[:, :, 0] = 0.0
    teacher[0, 5] = torch.tensor([-9.0, 0.0, -9.0, -9.0])  # the odd one of its pair
    batch = batch_of(teacher.log_softmax(dim=-1), 2 * LENGTHS)
    pair = torch.tensor([0.0, 0.0, -9.0, -9.0], dtype=torch.float64).log_softmax(-1)
    # Pooled, frame 2 is half blank; no other is below 0.6.
    settings = {"blank_mode": "threshold", "blank_threshold": 0.6}
    student = log_probs(1)
    expected = FrameKL(2.0)(student[:1, 2:3], pair[None, None])[0, 0]
    torch.testing.assert_close(frame_term(student, batch, ratio=2, **settings), expected)


@pytest.mark.parametrize("lag", [1, 2])
def test_a_student_that_lags_within_the_window_loses_nothing(lag: int) -> None:
    teacher = log_probs(2)
    student = torch.cat([log_probs(1)[:, :lag], teacher[:, :-lag]], dim=1)
    batch = batch_of(teacher)
    settings = {"blank_mode": "all"}
    assert frame_term(student, batch, **settings).item() > 0.1
    assert frame_term(student, batch, delay_frames=lag - 1, **settings).item() > 0.1
    delayed = frame_term(student, batch, delay_frames=3, **settings)
    assert delayed.item() == pytest.approx(0, abs=1e-12)


def test_the_best_delay_equals_trying_all_of_them_for_each_utterance() -> None:
    student, teacher = log_probs(1), log_probs(2)
    total, count = 0.0, 0
    for row, length in enumerate(LENGTHS.tolist()):
        tried = []
        for delay in range(3):
            pairs = range(length - delay)
            losses = [
                FrameKL(2.0)(student[row, t + delay][None, None], teacher[row, t][None, None])
                for t in pairs
            ]
            tried.append((float(sum(losses)) / len(losses), len(losses)))
        mean, frames = min(tried)
        total, count = total + mean * frames, count + frames
    found = frame_term(student, batch_of(teacher), blank_mode="all", delay_frames=2)
    assert found.item() == pytest.approx(total / count)


def test_a_window_longer_than_the_utterances_is_cut() -> None:
    value = frame_term(log_probs(1), batch_of(log_probs(2)), blank_mode="all", delay_frames=99)
    assert value.isfinite()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_utterances_that_the_teacher_says_nothing_about_do_not_count(settings) -> None:
    student, teacher = log_probs(1), log_probs(2)
    only_first = frame_term(student, batch_of(teacher, torch.tensor([6, 0])), **settings)
    other = student.clone()
    other[1] = log_probs(5)[1]
    found = frame_term(other, batch_of(teacher, torch.tensor([6, 0])), **settings)
    torch.testing.assert_close(found, only_first)
    assert only_first.item() > 0.01


def test_a_batch_that_the_teacher_says_nothing_about_can_be_learnt_from_all_the_same() -> None:
    student = log_probs(1).requires_grad_()
    for teacher in (log_probs(2), torch.zeros(2, 0, VOCAB), torch.zeros(2, 0, 0)):
        value = frame_term(student, batch_of(teacher, torch.tensor([0, 0])))
        assert value.item() == 0.0
        value.backward()
        assert student.grad is not None
        assert not student.grad.any()
