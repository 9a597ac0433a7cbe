import pytest
import torch

from distillery.losses.logit_mse import LogitMSE

LOSS = LogitMSE()


def test_by_hand() -> None:
    teacher = torch.tensor([[[0.0, -2.0], [-1.0, -1.0]]])
    student = torch.tensor([[[-1.0, -1.0], [-1.0, -4.0]]])
    # Squares: 1, 1 in the first frame, 0, 9 in the second.
    both = torch.ones(1, 2, dtype=torch.bool)
    assert LOSS(student, teacher, both).item() == pytest.approx((1 + 1 + 0 + 9) / 4)
    first = torch.tensor([[True, False]])
    assert LOSS(student, teacher, first).item() == pytest.approx(1.0)


def test_it_is_zero_for_equal_outputs_and_for_no_frame() -> None:
    teacher = torch.randn(2, 3, 4)
    assert LOSS(teacher, teacher, torch.ones(2, 3, dtype=torch.bool)).item() == 0.0
    assert LOSS(teacher, teacher + 1, torch.zeros(2, 3, dtype=torch.bool)).item() == 0.0


def test_padding_does_not_change_the_loss() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    selected = torch.ones(2, 3, dtype=torch.bool)
    pad = torch.nn.functional.pad
    padded = LOSS(
        pad(student, (0, 0, 0, 2), value=float("inf")),
        pad(teacher, (0, 0, 0, 2)),
        pad(selected, (0, 2), value=False),
    )
    assert padded.item() == pytest.approx(LOSS(student, teacher, selected).item())


def test_the_gradient_is_right() -> None:
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 4, dtype=torch.float64)
    selected = torch.tensor([[True, False, True], [True, True, False]])
    assert torch.autograd.gradcheck(lambda s: LOSS(s, teacher, selected), (student,))
