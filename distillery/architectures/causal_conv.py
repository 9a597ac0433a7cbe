"""A student that streams: separable convolutions that read no frame beyond a stated lookahead.

The layout is that of `separable_conv`; only the padding differs, most or all of it in front. Why no
Emformer: docs/decisions/0007-streaming-student.md.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.architectures.separable_conv import (
    SeparableBlock,
    SeparableNetwork,
    TimeConvolution,
)
from distillery.models.layers import StreamingNetwork
from distillery.params.models import CausalConvParams


class CausalConv(SeparableNetwork, StreamingNetwork):
    """The front reads no frame ahead; the blocks share the lookahead, earlier ones the more."""

    def __init__(self, params: CausalConvParams, num_mels: int, num_tokens: int) -> None:
        share, rest = divmod(params.lookahead_frames, params.num_blocks)
        lookaheads = [share + (index < rest) for index in range(params.num_blocks)]
        super().__init__(params, num_mels, num_tokens, front_lookahead=0, lookaheads=lookaheads)
        self.lookahead_frames = params.lookahead_frames

    def stream(self) -> CausalConvStream:
        """Return the network at the start of one utterance, to be fed piece by piece."""
        return CausalConvStream(self)


class CausalConvStream:
    """A CausalConv on its way through one utterance."""

    def __init__(self, network: CausalConv) -> None:
        self.network = network
        self.front = [ConvolutionStream(convolution) for convolution in network.front]  # type: ignore[arg-type]
        self.blocks = [BlockStream(block) for block in network.blocks]  # type: ignore[arg-type]

    def push(self, features: Tensor, *, last: bool = False) -> Tensor:
        """Return the scores `(new frames, vocab)` that the features so far settle.

        Args:
            features: the next ones `(feature_frames, mels)`; there may be none.
            last: whether the utterance ends here.
        """
        network = self.network
        x = features.T[None, :, None]  # (1, mels, 1, feature_frames)
        for index, stream in enumerate(self.front):
            x = stream.push(x, last=last)
            if x.shape[-1]:
                x = network.mix(x) if index == 1 else x
                x = torch.relu(network.norms[index](x))
        for block in self.blocks:
            x = block.push(x, last=last)
        if not x.shape[-1]:
            return x.new_zeros(0, network.output.out_channels)
        scores: Tensor = network.output(x)[0, :, 0].T
        return scores


class ConvolutionStream:
    """A convolution fed piece by piece; it holds the inputs that later outputs read again."""

    def __init__(self, convolution: TimeConvolution) -> None:
        self.convolution = convolution
        self.held = self._zeros(convolution.past)

    def push(self, x: Tensor, *, last: bool) -> Tensor:
        """Return the outputs `(1, outputs, 1, new frames)` that the inputs so far settle.

        Args:
            x: the next inputs `(1, inputs, 1, frames)`; there may be none.
            last: whether nothing follows; zeros then stand in for the future.
        """
        convolution = self.convolution
        (_, size), (_, stride) = convolution.kernel_size, convolution.stride
        x = torch.cat([self.held, x, self._zeros(convolution.future if last else 0)], dim=-1)
        num_outputs = max(0, (x.shape[-1] - size) // stride + 1)
        self.held = x[..., num_outputs * stride :]
        if not num_outputs:
            return x.new_zeros(1, convolution.out_channels, 1, 0)
        x = x[..., : (num_outputs - 1) * stride + size]
        return F.conv2d(x, convolution.weight, stride=(1, stride), groups=convolution.groups)

    def _zeros(self, num_frames: int) -> Tensor:
        convolution = self.convolution
        return convolution.weight.new_zeros(1, convolution.in_channels, 1, num_frames)


class BlockStream:
    """A residual block fed piece by piece; the residual path waits for the convolution."""

    def __init__(self, block: SeparableBlock) -> None:
        self.block = block
        self.depthwise = ConvolutionStream(block.depthwise)
        self.held = block.depthwise.weight.new_zeros(1, block.depthwise.in_channels, 1, 0)

    def push(self, x: Tensor, *, last: bool) -> Tensor:
        """Return `(1, channels, 1, new frames)`; arguments as of `ConvolutionStream.push`."""
        seen = self.depthwise.push(x, last=last)
        x = torch.cat([self.held, x], dim=-1)
        num_frames = seen.shape[-1]
        self.held = x[..., num_frames:]
        if not num_frames:
            return seen
        return torch.relu(x[..., :num_frames] + self.block.norm(self.block.pointwise(seen)))
