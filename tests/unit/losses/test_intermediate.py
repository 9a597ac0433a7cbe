import math

import pytest
import torch
from torch.nn.functional import pad

from distillery.losses.intermediate import IntermediateHeads

WIDTHS = {"front": 2, "blocks.0": 3}


def heads() -> IntermediateHeads:
    torch.manual_seed(0)
    return IntermediateHeads(["blocks.0", "front"], WIDTHS, 4).double()


def states() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(2, 5, width, generator=generator, dtype=torch.float64)
        for name, width in WIDTHS.items()
    }


def test_each_head_equals_a_plain_loop_over_frames() -> None:
    module, hidden = heads(), states()
    for name, head, log_probs in zip(module.layers, module.heads, module(hidden), strict=True):
        assert log_probs.shape == (2, 5, 4)
        for row in range(2):
            for frame in range(5):
                scores = (head.weight @ hidden[name][row, frame] + head.bias).tolist()
                total = math.log(sum(map(math.exp, scores)))
                expected = [score - total for score in scores]
                assert log_probs[row, frame].tolist() == pytest.approx(expected)


def test_padding_does_not_change_what_is_said_of_real_frames() -> None:
    module, hidden = heads(), states()
    longer = {name: pad(x, (0, 0, 0, 3), value=9.0) for name, x in hidden.items()}
    for alone, padded in zip(module(hidden), module(longer), strict=True):
        torch.testing.assert_close(padded[:, :5], alone)


def test_the_gradient_is_right() -> None:
    module, hidden = heads(), {name: x.requires_grad_() for name, x in states().items()}
    names = list(hidden)
    assert torch.autograd.gradcheck(
        lambda *values: module(dict(zip(names, values, strict=True))), tuple(hidden.values())
    )
