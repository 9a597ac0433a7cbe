import pytest
import torch

from distillery.architectures.known import ARCHITECTURES
from distillery.errors import ModelError
from distillery.losses.ctc import CTC
from distillery.models.layers import Dropout, Network, StreamingNetwork, real_frames
from distillery.params.models import (
    CausalConvParams,
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
    CausalConvParams(type="causal_conv", channels=24, num_blocks=2, kernel_size=5),
    CausalConvParams(
        type="causal_conv", channels=24, num_blocks=2, kernel_size=4, lookahead_frames=3
    ),
]
NUM_MELS = 16


def build(params, num_tokens: int = 5):
    torch.manual_seed(0)
    return ARCHITECTURES[params.type](params, NUM_MELS, num_tokens)


@pytest.mark.parametrize("params", ALL, ids=lambda p: p.type)
@pytest.mark.parametrize("time_reduction", [2, 4, 8])
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


RECORDED = [
    (ALL[0], {"project": 24, "recurrent.0": 48, "recurrent.1": 48, "last": 48}),
    (ALL[1], {"project": 16, "blocks.0": 16, "last": 16}),
    (ALL[2], {"front": 24, "blocks.0": 24, "blocks.1": 24, "last": 24}),
    (ALL[3], {"project": 24, "recurrent.0": 48, "last": 48}),
]
recorded = pytest.mark.parametrize(
    ("params", "widths"), RECORDED, ids=[params.type for params, _ in RECORDED]
)


@recorded
def test_last_is_what_the_output_layer_reads(params, widths: dict[str, int]) -> None:
    network = build(params).eval()
    *_, (name, _) = [item for item in widths.items() if item[0] != "last"]
    with network.recording(["last", name]) as states:
        network(torch.randn(2, 37, NUM_MELS), torch.tensor([37, 20]))
    assert torch.equal(states["last"], states[name])


@recorded
def test_hidden_layers_have_the_widths_they_say_and_the_frames_of_the_output(
    params, widths: dict[str, int]
) -> None:
    network = build(params).eval()
    assert {name: width for name, (_, width) in network.layers.items()} == widths
    with network.recording(list(widths)) as states:
        _, out = network(torch.randn(2, 37, NUM_MELS), torch.tensor([37, 20]))
    assert {name: tuple(x.shape) for name, x in states.items()} == {
        name: (2, int(out.max()), width) for name, width in widths.items()
    }


@recorded
def test_the_last_hidden_layer_is_what_the_output_layer_reads(params, widths) -> None:
    network = build(params).eval()
    last = list(widths)[-1]
    with network.recording([last]) as states, torch.inference_mode():
        scores, _ = network(torch.randn(2, 37, NUM_MELS), torch.tensor([37, 20]))
        hidden = states[last]
        if isinstance(network.output, torch.nn.Conv2d):
            hidden = hidden.transpose(1, 2)[:, :, None]  # (batch, channels, 1, frames)
        read = network.output(hidden)
    if isinstance(network.output, torch.nn.Conv2d):
        read = read.squeeze(2).transpose(1, 2)
    assert list(states) == [last]
    torch.testing.assert_close(read, scores)


@recorded
def test_recording_changes_no_output_and_leaves_no_trace(params, widths) -> None:
    network = build(params).eval()
    features, lengths = torch.randn(1, 21, NUM_MELS), torch.tensor([21])
    with torch.inference_mode():
        before, _ = network(features, lengths)
        with network.recording(list(widths)) as states:
            during, _ = network(features, lengths)
        seen = dict(states)
        after, _ = network(2 * features, lengths)
    torch.testing.assert_close(during, before, rtol=0, atol=0)
    assert not torch.equal(after, before)
    assert all(states[name] is seen[name] for name in widths)


@recorded
def test_hidden_states_do_not_hear_their_batch(params, widths) -> None:
    network = build(params).eval()
    short, long = torch.randn(21, NUM_MELS), torch.randn(60, NUM_MELS)
    batch = torch.zeros(2, 60, NUM_MELS)
    batch[0, :21], batch[1] = short, long
    with torch.inference_mode(), network.recording(list(widths)) as states:
        _, lengths = network(batch, torch.tensor([21, 60]))
        together = {name: x[0, : lengths[0]] for name, x in states.items()}
        network(short[None], torch.tensor([21]))
        for name, alone in states.items():
            torch.testing.assert_close(together[name], alone[0], atol=1e-5, rtol=1e-4)


def test_an_unknown_layer_is_refused() -> None:
    with (
        pytest.raises(
            ModelError,
            match=r"layer 'blocks\.9': unknown to this network, expected one of \['project', 'bl",
        ),
        build(ALL[1]).recording(["project", "blocks.9"]),
    ):
        pass
    with pytest.raises(ModelError, match=r"layer 'blocks\.2': unknown .* \['front', 'blocks\.0', "):
        build(ALL[2]).widths(["front", "blocks.2"])


def test_widths_are_told_by_name() -> None:
    assert build(ALL[0]).widths(["recurrent.1", "project"]) == {"recurrent.1": 48, "project": 24}


streaming = pytest.mark.parametrize(
    "params", [params for params in ALL if params.type == "causal_conv"], ids=["0", "3"]
)


@streaming
@pytest.mark.parametrize("time_reduction", [2, 4, 8])
def test_a_frame_reads_as_far_ahead_as_the_lookahead_says_and_no_further(
    params, time_reduction: int
) -> None:
    network = build(params.model_copy(update={"time_reduction": time_reduction})).eval()
    assert isinstance(network, StreamingNetwork)
    assert network.lookahead_frames == params.lookahead_frames
    features = torch.randn(1, 100, NUM_MELS, requires_grad=True)
    scores, _ = network(features, torch.tensor([100]))
    for frame in (0, 1, 7):
        (gradient,) = torch.autograd.grad(scores[0, frame].sum(), features, retain_graph=True)
        reads = gradient[0].abs().sum(dim=-1).nonzero().flatten()
        assert reads.max() == time_reduction * (frame + params.lookahead_frames)


@streaming
@pytest.mark.parametrize("time_reduction", [2, 4, 8])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 33])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_network_fed_piece_by_piece_gives_the_same_scores(
    params, time_reduction: int, num_frames: int, size: int
) -> None:
    network = build(params.model_copy(update={"time_reduction": time_reduction})).eval()
    features = torch.randn(num_frames, NUM_MELS)
    with torch.inference_mode():
        whole, lengths = network(features[None], torch.tensor([num_frames]))
        stream = network.stream()
        pieces = [stream.push(piece) for piece in features.split(size)]
        pieces.append(stream.push(features[:0], last=True))
    found = torch.cat(pieces)
    assert len(found) == lengths.item()
    torch.testing.assert_close(found, whole[0], atol=1e-5, rtol=1e-4)


def test_the_blocks_share_the_lookahead() -> None:
    params = CausalConvParams(
        type="causal_conv", channels=8, num_blocks=3, kernel_size=7, lookahead_frames=5
    )
    assert [block.depthwise.future for block in build(params).blocks] == [2, 2, 1]


def test_a_network_without_named_layers_offers_none() -> None:
    assert Network().layers == {}


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = Dropout(0.3)
    x = torch.ones(200, 50, 1, 40, requires_grad=True)  # 400,000 elements
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=memory_format)
        out = layer(given)
        # The standard error of the share is 0.0007.
        assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.004)
        assert torch.unique(out.detach()).tolist() == pytest.approx([0, 1 / 0.7], abs=1e-4)
        assert torch.autograd.grad(out.sum(), given)[0].equal(out)
    neighbours = (out[:, :-1] == 0) & (out[:, 1:] == 0)
    assert neighbours.float().mean().item() == pytest.approx(0.09, abs=0.003)


def test_dropout_follows_the_seed_and_does_nothing_in_evaluation() -> None:
    layer, x = Dropout(0.5), torch.randn(3, 7, 5)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert layer(x).equal(first)
    assert not second.equal(first)
    assert layer.eval()(x).equal(x)


def test_dropout_of_nothing_and_of_everything() -> None:
    x = torch.randn(4, 6)
    assert Dropout(0.0)(x).equal(x)
    assert Dropout(1.0)(x).equal(torch.zeros(4, 6))


@pytest.mark.parametrize("params", ALL, ids=lambda params: params.type)
def test_an_even_start_makes_all_tokens_alike_and_leaves_the_layers_below(params) -> None:
    torch.manual_seed(0)
    network = build(params)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.start_even()
    changed = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"output.weight", "output.bias"}
    scores, _ = network(torch.randn(2, 40, NUM_MELS), torch.tensor([40, 31]))
    assert torch.equal(scores, torch.zeros_like(scores))
    scores.sum().backward()
    assert network.output.weight.grad.abs().sum() > 0  # and can leave it
