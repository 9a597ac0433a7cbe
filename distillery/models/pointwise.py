"""Linear layers over frames as training runs them on a CPU: as convolutions of one tap.

PyTorch gives matrix products in fp32 to MKL, and most convolutions to oneDNN, which needs half of
the time for these on AMD's processors. Results are equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ALONE, DILATION = (1, 1), (2, 2)
"""A dilation means nothing to a single tap, but with one, PyTorch takes oneDNN for small batches,
too (`use_mkldnn` in ATen/native/Convolution.cpp)."""


class Pointwise(nn.Conv2d):
    """A convolution of one tap, which looks at each frame alone."""

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool = False) -> None:
        super().__init__(num_inputs, num_outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, outputs, 1, frames)` for `(batch, inputs, 1, frames)`."""
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        return F.conv2d(x, self.weight, self.bias, dilation=DILATION)


def through(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return what a linear layer says of `(batch, frames, inputs)`, on any device."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() == 0:
        return layer(x)  # type: ignore[no-any-return]
    return convolved(layer.weight, layer.bias, x)


def convolved(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return `W x + b`, `(batch, frames, outputs)`.

    Args:
        weight: `(outputs, inputs)`.
        bias: `(outputs,)`.
        x: `(batch, frames, inputs)`, or with frames first.
    """
    said = F.conv2d(_image(x), weight[:, :, None, None], bias, dilation=DILATION)
    return _rows(said)


def gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, *, of_x: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of `x`, the weight and the bias of `convolved`.

    Args:
        gradient: of its result, `(batch, frames, outputs)`.
        x: as there.
        weight: as there.
        of_x: whether that of `x` is wanted.
    """
    to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
        _image(gradient),
        _image(x),
        weight[:, :, None, None],
        [len(weight)],
        ALONE,
        (0, 0),
        DILATION,
        False,
        (0, 0),
        1,
        (of_x, True, True),
    )
    return _rows(to_x) if of_x else None, to_weight[:, :, 0, 0], to_bias


def _image(x: Tensor) -> Tensor:
    """Return `(batch, width, 1, frames)`, channels-last, for `(batch, frames, width)`."""
    return x.transpose(1, 2).unsqueeze(2)


def _rows(image: Tensor) -> Tensor:
    return image.squeeze(2).transpose(1, 2)
