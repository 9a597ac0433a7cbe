import pytest
import torch
from torch import nn

from distillery.models.pointwise import Pointwise, convolved, gradients, through


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (20, 7)])
def test_a_convolution_of_one_tap_trains_as_pytorchs_does(
    bias: bool, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    ours, theirs = Pointwise(24, 32, bias=bias), nn.Conv2d(24, 32, 1, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    batch, frames = shape
    x = torch.randn(batch, 24, 1, frames).to(memory_format=torch.channels_last)
    for module in (ours, theirs):
        module(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    assert torch.equal(ours.eval()(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_layer_over_frames_is_one_of_pytorchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 32, dtype=dtype)
    x = torch.randn(3, 7, 24, dtype=dtype, requires_grad=True)
    inputs, wanted = (x, layer.weight, layer.bias), torch.randn(3, 7, 32, dtype=dtype)
    found = through(layer, x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, layer(x))
    theirs = torch.autograd.grad((layer(x) * wanted).sum(), inputs)
    for ours in (
        torch.autograd.grad((found * wanted).sum(), inputs),
        gradients(wanted, x, layer.weight),
    ):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(convolved(layer.weight, layer.bias, x), layer(x))
    assert gradients(wanted, x, layer.weight, of_x=False)[0] is None


def test_a_linear_layer_over_no_frames_says_nothing() -> None:
    layer = nn.Linear(24, 32)
    said = through(layer, torch.zeros(3, 0, 24))
    assert said.shape == (3, 0, 32)
    said.sum().backward()
    assert torch.equal(layer.weight.grad, torch.zeros(32, 24))
