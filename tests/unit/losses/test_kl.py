import math

import pytest
import torch

from distillery.losses.kl import FrameKL


def frames(batch: int = 2, num_frames: int = 4, vocab: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, num_frames, vocab, generator=generator, dtype=torch.float64)
    return scores.log_softmax(dim=-1)


def test_it_is_zero_when_student_equals_teacher() -> None:
    teacher = frames()
    value = FrameKL(2.0)(teacher, teacher)
    torch.testing.assert_close(value, torch.zeros(2, 4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_one_frame_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)
    teacher = torch.tensor([[[0.75, 0.25]]], dtype=torch.float64).log()
    student = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert FrameKL(1.0)(student, teacher).item() == pytest.approx(expected)
    # At T = 2: p_T ∝ (√3, 1), q_T = (1/2, 1/2), and the factor is 4.
    heads = math.sqrt(3) / (math.sqrt(3) + 1)
    softened = heads * math.log(2 * heads) + (1 - heads) * math.log(2 * (1 - heads))
    assert FrameKL(2.0)(student, teacher).item() == pytest.approx(4 * softened)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_it_equals_a_plain_loop(temperature: float) -> None:
    student, teacher = frames(seed=1), frames(seed=2)
    values = FrameKL(temperature)(student, teacher)
    assert values.shape == (2, 4)
    for row in range(2):
        for frame in range(4):
            p = torch.softmax(teacher[row, frame] / temperature, -1)
            q = torch.softmax(student[row, frame] / temperature, -1)
            divergence = sum(
                float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)
            )
            assert values[row, frame].item() == pytest.approx(temperature**2 * divergence)


def test_padding_does_not_change_the_values_of_real_frames() -> None:
    student, teacher = frames(seed=1), frames(seed=2)
    more = torch.nn.functional.pad
    padded = FrameKL(2.0)(more(student, (0, 0, 0, 3), value=7.0), more(teacher, (0, 0, 0, 3)))
    torch.testing.assert_close(padded[:, :4], FrameKL(2.0)(student, teacher))


def test_the_gradient_is_right() -> None:
    student, teacher = frames(seed=1).requires_grad_(), frames(seed=2)
    assert torch.autograd.gradcheck(lambda s: FrameKL(2.0)(s, teacher), (student,))


@pytest.mark.parametrize("least", [-1e4, -3e38, -math.inf])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_value_and_gradient_are_finite_for_a_certain_teacher(
    least: float, temperature: float
) -> None:
    teacher = torch.full((1, 2, 3), least)
    teacher[..., 0] = 0.0
    student = frames(1, 2).float().requires_grad_()
    value = FrameKL(temperature)(student, teacher)
    # All the mass is on token 0, so only its q counts.
    q = (student / temperature).log_softmax(-1)[..., 0]
    torch.testing.assert_close(value, -(temperature**2) * q)
    value.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = frames(seed=2).requires_grad_()
    student = frames(seed=1).requires_grad_()
    FrameKL(2.0)(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
