import pytest
import torch
from torch import Tensor, nn

from distillery.models.layers import BidirectionalRecurrent
from distillery.models.recurrent import bidirectional_gru, reverse, reversed_order

LENGTHS = torch.tensor([9, 4, 1])


def plain(layer: BidirectionalRecurrent, x: Tensor, lengths: Tensor) -> Tensor:
    """Each utterance alone, by PyTorch's own layers; zeros where it has ended."""
    rows = []
    for row, length in zip(x, lengths.tolist(), strict=True):
        said = row[None, :length]
        for ahead, back in zip(layer.forwards, layer.backwards, strict=True):
            said = torch.cat([ahead(said)[0], back(said.flip(1))[0].flip(1)], dim=-1)
        rows.append(nn.functional.pad(said[0], (0, 0, 0, x.shape[1] - length)))
    return torch.stack(rows)


def gradients(layer: nn.Module, x: Tensor, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [x, *layer.parameters()]))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor([9]), torch.tensor([1, 1])])
def test_training_gives_what_pytorchs_layers_give_for_each_utterance_alone(
    kind: type[nn.GRU] | type[nn.LSTM], num_layers: int, lengths: Tensor
) -> None:
    torch.manual_seed(0)
    layer = BidirectionalRecurrent(kind, 6, 5, num_layers, dropout=0.0)
    frames = int(lengths.max())
    x = torch.randn(len(lengths), frames, 6, requires_grad=True)
    weights = torch.randn(len(lengths), frames, 10)
    weights = weights * (torch.arange(frames) < lengths[:, None])[..., None]
    ours, theirs = layer(x, lengths), plain(layer, x, lengths)
    torch.testing.assert_close(ours * (weights != 0), theirs, atol=1e-6, rtol=1e-5)
    pairs = (gradients(layer, x, (said * weights).sum()) for said in (ours, theirs))
    for mine, other in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_training_and_inference_agree() -> None:
    torch.manual_seed(0)
    layer, x = BidirectionalRecurrent(nn.GRU, 6, 5, 1, dropout=0.0), torch.randn(3, 9, 6)
    trained = layer.train()(x, LENGTHS)
    with torch.inference_mode():
        torch.testing.assert_close(layer.eval()(x, LENGTHS), trained, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_the_gru_is_right() -> None:
    torch.manual_seed(0)
    ahead, back = (nn.GRU(3, 2, batch_first=True).double() for _ in range(2))
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    order = reversed_order(torch.tensor([4, 2]), 4)
    parameters = [*ahead.parameters(), *back.parameters()]
    assert torch.autograd.gradcheck(
        lambda x, *_: bidirectional_gru(x, order, ahead, back), (x, *parameters)
    )


def test_bf16_leaves_the_gru_to_pytorch() -> None:
    torch.manual_seed(0)
    layer, x = BidirectionalRecurrent(nn.GRU, 6, 5, 1, dropout=0.0), torch.randn(3, 9, 6)
    with torch.autocast("cpu", torch.bfloat16):
        said, alone = layer(x, LENGTHS), layer.forwards[0](x)[0]
    assert torch.equal(said[..., :5], alone)
    torch.testing.assert_close(said, layer(x, LENGTHS), atol=0.05, rtol=0.05)


def test_reversing_twice_changes_nothing_and_padding_stays() -> None:
    x = torch.randn(3, 9, 2, dtype=torch.float64, requires_grad=True)
    order = reversed_order(LENGTHS, 9)
    once = reverse(x, order)
    assert torch.equal(once[1], torch.cat([x[1, :4].flip(0), x[1, 4:]]))
    assert torch.equal(once, reverse(x.detach(), order))
    assert torch.equal(reverse(once, order), x)
    assert torch.equal(reverse(x, None), x.flip(1))
    assert torch.autograd.gradcheck(lambda x: reverse(x, order), (x,))
