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
    assert FrameKL(2.0)(teacher, teacher, torch.ones(2, 4, dtype=torch.bool)).item() == (
        pytest.approx(0.0, abs=1e-12)
    )


def test_one_frame_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)
    teacher = torch.tensor([[[0.75, 0.25]]], dtype=torch.float64).log()
    student = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    selected = torch.ones(1, 1, dtype=torch.bool)
    assert FrameKL(1.0)(student, teacher, selected).item() == pytest.approx(expected)
    # At T = 2: p_T ∝ (√3, 1), q_T = (1/2, 1/2), and the factor is 4.
    heads = math.sqrt(3) / (math.sqrt(3) + 1)
    softened = heads * math.log(2 * heads) + (1 - heads) * math.log(2 * (1 - heads))
    assert FrameKL(2.0)(student, teacher, selected).item() == pytest.approx(4 * softened)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_it_equals_a_plain_loop(temperature: float) -> None:
    student, teacher = frames(seed=1), frames(seed=2)
    selected = torch.tensor([[True, True, False, False], [True, False, True, True]])
    total = 0.0
    for row in range(2):
        for frame in range(4):
            if selected[row, frame]:
                p = torch.softmax(teacher[row, frame] / temperature, -1)
                q = torch.softmax(student[row, frame] / temperature, -1)
                total += sum(
                    float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True)
                )
    expected = temperature**2 * total / 5
    assert FrameKL(temperature)(student, teacher, selected).item() == pytest.approx(expected)


def test_padding_does_not_change_the_loss() -> None:
    student, teacher = frames(seed=1), frames(seed=2)
    selected = torch.ones(2, 4, dtype=torch.bool)
    more = torch.nn.functional.pad
    padded = FrameKL(2.0)(
        more(student, (0, 0, 0, 3), value=7.0),
        more(teacher, (0, 0, 0, 3)),
        more(selected, (0, 3), value=False),
    )
    assert padded.item() == pytest.approx(FrameKL(2.0)(student, teacher, selected).item())


def test_the_gradient_is_right() -> None:
    student = frames(seed=1).requires_grad_()
    teacher = frames(seed=2)
    selected = torch.tensor([[True, True, False, True], [True, False, False, False]])
    assert torch.autograd.gradcheck(lambda s: FrameKL(2.0)(s, teacher, selected), (student,))


def test_it_is_finite_for_a_certain_teacher_and_for_no_frame() -> None:
    teacher = torch.full((1, 2, 3), -1e4)
    teacher[..., 0] = 0.0
    student = frames(1, 2).float()
    assert torch.isfinite(FrameKL(1.0)(student, teacher, torch.ones(1, 2, dtype=torch.bool)))
    assert FrameKL(1.0)(student, teacher, torch.zeros(1, 2, dtype=torch.bool)).item() == 0.0


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = frames(seed=2).requires_grad_()
    student = frames(seed=1).requires_grad_()
    FrameKL(2.0)(student, teacher, torch.ones(2, 4, dtype=torch.bool)).backward()
    assert teacher.grad is None
    assert student.grad is not None
