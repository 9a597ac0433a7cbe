import pytest
import torch

from distillery.architectures import ARCHITECTURES
from distillery.losses.ctc import CTC
from distillery.networks import real_frames
from distillery.params import (
    ConformerParams,
    ConvBiLSTMParams,
    CRNNParams,
    SeparableConvParams,
)

ALL = [
    ConvBiLSTMParams(type="conv_bilstm", conv_channels=4, hidden_size=24, num_layers=2),
    ConformerParams(
        type="conformer",
        conv_channels=4,
        model_size=16,
        num_heads=2,
        num_layers=1,
        kernel_size=5,
    ),
    SeparableConvParams(type="separable_conv", channels=24, num_blocks=2, kernel_size=5),
    CRNNParams(type="crnn", conv_channels=4, hidden_size=24),
]
NUM_MELS = 16


def build(params, num_tokens: int = 5):
    torch.manual_seed(0)
    return ARCHITECTURES[params.type](params, NUM_MELS, num_tokens)


@pytest.mark.parametrize("params", ALL, ids=lambda p: p.type)
@pytest.mark.parametrize("time_reduction", [2, 4])
def test_shapes_follow_the_time_reduction(params, time_reduction: int) -> None:
    network = build(params.model_copy(update={"time_reduction": time_reduction})).eval()
    lengths = torch.tensor([37, 20])
    scores, out = network(torch.randn(2, 37, NUM_MELS), lengths)
    assert out.tolist() == [-(-37 // time_reduction), -(-20 // time_reduction)]
    assert out.tolist() == network.num_output_frames(lengths).tolist()
    assert scores.shape == (2, int(out.max()), 5)


@pytest.mark.parametrize("params", ALL, ids=lambda p: p.type)
def test_an_utterance_does_not_hear_its_batch(params) -> None:
    network = build(params).eval()
    short, long = torch.randn(21, NUM_MELS), torch.randn(60, NUM_MELS)
    batch = torch.zeros(2, 60, NUM_MELS)
    batch[0, :21], batch[1] = short, long
    with torch.inference_mode():
        together, lengths = network(batch, torch.tensor([21, 60]))
        alone, _ = network(short[None], torch.tensor([21]))
    torch.testing.assert_close(together[0, : lengths[0]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("params", ALL, ids=lambda p: p.type)
def test_it_overfits_four_utterances(params) -> None:
    network = build(params.model_copy(update={"dropout": 0.0}))
    features, lengths = torch.randn(4, 48, NUM_MELS), torch.tensor([48, 48, 44, 40])
    labels = torch.tensor([[1, 2, 3], [4, 3, 0], [2, 2, 1], [1, 0, 0]])
    label_lengths = torch.tensor([3, 2, 3, 1])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        scores, out = network(features, lengths)
        loss = CTC()(scores.log_softmax(-1), out, labels, label_lengths)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


def test_the_mask_is_true_where_frames_are_real() -> None:
    assert real_frames(torch.tensor([2, 0, 3]), 3).tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, True],
    ]
