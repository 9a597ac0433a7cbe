"""A student that streams, chunk by chunk, with the states of sherpa-onnx's streaming Zipformer.

sherpa-onnx makes the first states, all zeros, in shapes that metadata decide, and hands back what
the network gave with the last chunk. A layer of a Zipformer has six states, one of them the past of
a convolution: `(batch, channels, kernel // 2)`. So each block of a `causal_conv` is a layer, its
past lies there, and the other five are as small as they can be. Two states come after the layers:

    embed            (batch, 128, 3, 19), fixed: the past of the two convolutions in front, and the
                     sums of running normalisation, each double as two floats
    processed_lens   (batch,): frames that the network has given so far

Outputs come `lookahead_frames` late. What would lie before the start is masked in every block, as
the zeros that a whole utterance is padded with, and is a blank in the output. Texts are those of
`StreamingRecogniser`; nothing tells the network that an utterance ends, so zeros must follow it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillery.architectures.causal_conv import CausalConv
from distillery.architectures.separable_conv import SeparableBlock, TimeConvolution
from distillery.data.normalisation import normalised_so_far
from distillery.errors import ModelError
from distillery.models.decoding import BLANK_INDEX
from distillery.models.recogniser import Recogniser
from distillery.serve.export import traced

CHUNK_FRAMES = 32
"""Feature frames of a chunk; a multiple of every time reduction."""
EMBED_SHAPE = (128, 3, 19)
STATES_OF_A_LAYER = ("cached_key", "cached_nonlin_attn", "cached_val1", "cached_val2")
CONVOLUTIONS_OF_A_LAYER = ("cached_conv1", "cached_conv2")
UNLIKELY = -1e4
"""ln P of all tokens but the blank in frames before the start."""


class ChunkNetwork(nn.Module):
    """A `CausalConv` and running normalisation over one chunk, states in and out."""

    def __init__(self, network: CausalConv, num_mels: int) -> None:
        super().__init__()
        self.network = network
        convolutions: list[TimeConvolution] = list(network.front)  # type: ignore[arg-type]
        sizes = [item.in_channels * item.past for item in convolutions]
        self.parts = [*sizes, *[num_mels] * 5]
        """What the state `embed` holds: pasts, first frame, sums and sums of squares."""

    def forward(self, logs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return log-probabilities `(batch, frames, vocab)` and the new states.

        Args:
            logs: energies `(batch, CHUNK_FRAMES, mels)`.
            states: as `state_shapes` has them.
        """
        *layers, embed, processed = states
        pasts, sums = self._unpacked(embed)
        features, sums = self._normalised(logs, sums, processed)
        x = features.transpose(1, 2).unsqueeze(2)  # (batch, mels, 1, feature_frames)
        network = self.network
        new_pasts = []
        for index, convolution in enumerate(network.front):
            assert isinstance(convolution, TimeConvolution)
            past = pasts[index].reshape(-1, convolution.in_channels, 1, convolution.past)
            x = torch.cat([past, x], dim=-1)
            new_pasts.append(x[..., -convolution.past :].flatten(1))
            x = _convolved(convolution, x)
            x = network.mix(x) if index == 1 else x
            x = torch.relu(network.norms[index](x))
        delay, new_layers = 0, []
        for index, block in enumerate(network.blocks):
            assert isinstance(block, SeparableBlock)
            own = layers[6 * index : 6 * index + 6]
            x, past = self._through(block, x, own[4])
            delay += block.depthwise.future
            x = x * self._has_begun(x, processed, delay)[:, None, None].to(x.dtype)
            # Zeros are added, or a graph would give an input as its output.
            new_layers += [*(item + 0.0 for item in own[:4]), past, own[5] + 0.0]
        scores = network.output(x).squeeze(2).transpose(1, 2)  # (batch, frames, vocab)
        log_probs = scores.log_softmax(dim=-1)
        blank = torch.full_like(log_probs[:1, :1], UNLIKELY)
        blank[..., BLANK_INDEX] = 0.0
        begun = self._has_begun(x, processed, delay)[..., None]
        log_probs = torch.where(begun, log_probs, blank)
        packed = self._packed([*new_pasts, *sums], embed)
        return log_probs, *new_layers, packed, processed + x.shape[-1]

    def _through(self, block: SeparableBlock, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return a block's output `(batch, channels, 1, frames)` and its new past."""
        depthwise, num_frames = block.depthwise, x.shape[-1]
        num_held = depthwise.past + depthwise.future
        x = torch.cat([past[:, :, None], x], dim=-1)
        change = block.norm(block.pointwise(_convolved(depthwise, x)))
        new_past = x[:, :, 0, x.shape[-1] - num_held :]
        heard = x[..., depthwise.past : depthwise.past + num_frames]
        return torch.relu(heard + change), new_past

    def _has_begun(self, x: Tensor, processed: Tensor, delay: int) -> Tensor:
        """Return which frames of a delayed `(batch, …, frames)` do not lie before the start."""
        return processed[:, None] + torch.arange(x.shape[-1])[None] >= delay  # (batch, frames)

    def _normalised(
        self, logs: Tensor, sums: Sequence[Tensor], processed: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        first, *halves = (item[:, None] for item in sums)  # (batch, 1, mels)
        seen = processed[:, None, None] * self.network.time_reduction
        first = torch.where(seen > 0, first, logs[:, :1])
        shifted = (logs - first).double()
        earlier = [halves[i].double() + halves[i + 1].double() for i in (0, 2)]
        totals = shifted.cumsum(dim=1) + earlier[0]
        squares = shifted.square().cumsum(dim=1) + earlier[1]
        counts = seen + torch.arange(1, logs.shape[1] + 1)[None, :, None]
        features = normalised_so_far(shifted, totals, squares, counts.double())
        last = [value[:, -1] for value in (totals, squares)]
        upper = [value.float() for value in last]
        lower = [(value - half.double()).float() for value, half in zip(last, upper, strict=True)]
        return features, [first[:, 0], upper[0], lower[0], upper[1], lower[1]]

    def _unpacked(self, embed: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        flat = embed.flatten(1)
        parts = list(torch.split(flat[:, : sum(self.parts)], self.parts, dim=1))
        return parts[:2], parts[2:]

    def _packed(self, parts: Sequence[Tensor], embed: Tensor) -> Tensor:
        flat = embed.flatten(1)
        joined = torch.cat([*parts, flat[:, sum(self.parts) :]], dim=1)
        return joined.reshape(-1, *EMBED_SHAPE)


def _convolved(convolution: TimeConvolution, x: Tensor) -> Tensor:
    """Return what a convolution makes of inputs whose past stands in front; nothing is padded."""
    stride = (1, int(convolution.stride[1]))
    return F.conv2d(x, convolution.weight, stride=stride, groups=convolution.groups)


def state_shapes(recogniser: Recogniser) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return the shape of each state of one utterance, and which of its axes is the batch."""
    network = recogniser.network
    assert isinstance(network, CausalConv)
    channels = network.output.in_channels
    held = _kernel_size(network) - 1
    shapes: dict[str, tuple[tuple[int, ...], int]] = {}
    for index in range(len(network.blocks)):
        small = [(1, 1, 1), (1, 1, 1, 3 * channels // 4), (1, 1, 1), (1, 1, 1)]
        shapes |= {f"{n}_{index}": (s, 1) for n, s in zip(STATES_OF_A_LAYER, small, strict=True)}
        shapes |= {f"{n}_{index}": ((1, channels, held), 0) for n in CONVOLUTIONS_OF_A_LAYER}
    return {**shapes, "embed_states": ((1, *EMBED_SHAPE), 0), "processed_lens": ((1,), 0)}


def _kernel_size(network: CausalConv) -> int:
    block = network.blocks[0]
    assert isinstance(block, SeparableBlock)
    return int(block.depthwise.kernel_size[1])


def tail_seconds(recogniser: Recogniser) -> float:
    """Return how much must follow an utterance, in seconds, for all of it to be read.

    A chunk is read once the frame behind it is there, too.
    """
    features, network = recogniser.features, recogniser.network
    assert isinstance(network, CausalConv)
    frames = CHUNK_FRAMES + 1 + network.lookahead_frames * network.time_reduction
    return frames * features.hop_seconds + features.window_seconds / 2


def streaming_model(recogniser: Recogniser) -> tuple[bytes, dict[str, str]]:
    """Return a student that streams as an ONNX file's content, and its metadata.

    Raises:
        ModelError: it is too wide for the states of sherpa-onnx.
    """
    network, num_mels = recogniser.network, recogniser.features.num_mels
    assert isinstance(network, CausalConv)
    chunks = ChunkNetwork(network, num_mels)
    room = EMBED_SHAPE[0] * EMBED_SHAPE[1] * EMBED_SHAPE[2]
    if sum(chunks.parts) > room:
        raise ModelError(
            f"model: {network.output.in_channels} channels and {num_mels} mel bands need "
            f"{sum(chunks.parts)} numbers of state, sherpa-onnx keeps {room}; fewer of either "
            "stream there"
        )
    shapes = state_shapes(recogniser)
    inputs = {"x": torch.zeros(1, CHUNK_FRAMES, num_mels)}
    for name, (shape, _) in shapes.items():
        kind = torch.int64 if name == "processed_lens" else torch.float32
        inputs[name] = torch.zeros(shape, dtype=kind)
    axes = {"x": {0: "batch"}, "log_probs": {0: "batch"}}
    for name, (_, axis) in shapes.items():
        axes |= {name: {axis: "batch"}, f"new_{name}": {axis: "batch"}}
    outputs = ["log_probs", *(f"new_{name}" for name in shapes)]
    content = traced(chunks, inputs, outputs, axes)
    return content, _metadata(recogniser)


def _metadata(recogniser: Recogniser) -> dict[str, str]:
    network = recogniser.network
    assert isinstance(network, CausalConv)
    return {
        "model_type": "zipformer2",
        "version": "1",
        "model_author": "distillery",
        "comment": f"streaming CTC, {recogniser.architecture.type}",
        "decode_chunk_len": str(CHUNK_FRAMES),
        "T": str(CHUNK_FRAMES),
        "num_encoder_layers": str(len(network.blocks)),
        "encoder_dims": str(network.output.in_channels),
        "cnn_module_kernels": str(2 * (_kernel_size(network) - 1)),
        "left_context_len": "1",
        "query_head_dims": "1",
        "value_head_dims": "1",
        "num_heads": "1",
        "vocab_size": str(len(recogniser.vocabulary)),
        "subsampling_factor": str(network.time_reduction),
        "sample_rate": str(recogniser.sample_rate_hz),
        "feature_dim": str(recogniser.features.num_mels),
    }
