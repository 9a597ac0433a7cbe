import pytest
import torch

from distillery.losses.logit_mse import FLOOR, LogitMSE

LOSS = LogitMSE()


def test_by_hand() -> None:
    teacher = torch.tensor([[[0.0, -2.0], [-1.0, -1.0]]])
    student = torch.tensor([[[-1.0, -1.0], [-1.0, -4.0]]])
    # Squares: 1, 1 in the first frame, 0, 9 in the second.
    assert LOSS(student, teacher).tolist() == [[(1 + 1) / 2, (0 + 9) / 2]]


def test_it_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    values = LOSS(student, teacher)
    assert values.shape == (2, 3)
    for row in range(2):
        for frame in range(3):
            squares = [
                float(teacher[row, frame, v] - student[row, frame, v]) ** 2 for v in range(4)
            ]
            assert values[row, frame].item() == pytest.approx(sum(squares) / 4, rel=1e-5)


def test_it_is_zero_for_equal_outputs() -> None:
    teacher = torch.randn(2, 3, 4)
    assert LOSS(teacher, teacher).tolist() == torch.zeros(2, 3).tolist()


def test_padding_does_not_change_the_values_of_real_frames() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    pad = torch.nn.functional.pad
    padded = LOSS(pad(student, (0, 0, 0, 2), value=float("inf")), pad(teacher, (0, 0, 0, 2)))
    torch.testing.assert_close(padded[:, :3], LOSS(student, teacher))


def test_the_gradient_is_right_and_none_reaches_the_teacher() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: LOSS(s, teacher), (student,))
    LOSS(student, teacher).sum().backward()
    assert teacher.grad is None


def test_a_certain_teacher_counts_down_to_the_floor() -> None:
    teacher = torch.tensor([[[0.0, -float("inf")]]])
    student = torch.tensor([[[0.0, -10.0]]])
    assert FLOOR == -80.0
    assert LOSS(student, teacher).item() == pytest.approx(70**2 / 2)
