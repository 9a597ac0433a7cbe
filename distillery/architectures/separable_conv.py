"""A convolutional student of time-channel separable blocks, after QuartzNet (Kriman et al., 2019).

Kernels of (1, k) over channels-last tensors run about 1.6 times as fast on CPUs as the same
one-dimensional convolutions (docs/decisions/0004-student-layout.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillery.models.layers import Dropout, Network, real_frames, thinned, with_last
from distillery.models.pointwise import Pointwise
from distillery.params.models import CausalConvParams, SeparableConvParams

FRONT_KERNEL_SIZE = 5


class TimeConvolution(nn.Conv2d):
    """A convolution over time whose output t reads inputs up to `stride * t + lookahead`."""

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        kernel_size: int,
        *,
        lookahead: int,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        past = kernel_size - 1 - lookahead
        super().__init__(
            num_inputs,
            num_outputs,
            (1, kernel_size),
            stride=(1, stride),
            # Padding inside the kernel costs nothing, but can only be the same on both sides.
            padding=(0, lookahead if past == lookahead else 0),
            groups=groups,
            bias=False,
        )
        self.past, self.future = past, lookahead

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, outputs, 1, ceil(frames / stride))` for `(batch, inputs, 1, frames)`."""
        if self.past != self.future:
            x = F.pad(x, (self.past, self.future))
        return super().forward(x)


class SeparableBlock(nn.Module):
    """Depthwise over time, pointwise over channels, normalised, with a residual path."""

    def __init__(self, channels: int, kernel_size: int, lookahead: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = TimeConvolution(
            channels, channels, kernel_size, lookahead=lookahead, groups=channels
        )
        self.pointwise = Pointwise(channels, channels)
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return `(batch, channels, 1, frames)` for the same shape."""
        heard = x if mask is None else x * mask
        change = self.norm(self.pointwise(self.depthwise(heard)))
        return torch.relu(x + self.dropout(change))


class SeparableNetwork(Network):
    """Strided convolution, residual separable blocks, pointwise output."""

    layer_stacks = ("blocks",)

    def __init__(
        self,
        params: SeparableConvParams | CausalConvParams,
        num_mels: int,
        num_tokens: int,
        *,
        front_lookahead: int,
        lookaheads: Sequence[int],
    ) -> None:
        """Build the network.

        Args:
            params: sizes.
            num_mels: width of the features.
            num_tokens: width of the output.
            front_lookahead: frames ahead that each of the two convolutions in front reads.
            lookaheads: the same for each block.
        """
        super().__init__()
        self.time_reduction = params.time_reduction
        self.strides = {2: (2, 1), 4: (2, 2), 8: (2, 4)}[params.time_reduction]
        sizes = (num_mels, params.channels, params.channels)
        self.front = nn.ModuleList(
            TimeConvolution(
                sizes[i],
                sizes[i + 1],
                FRONT_KERNEL_SIZE,
                lookahead=front_lookahead,
                stride=self.strides[i],
                groups=1 if i == 0 else params.channels,
            )
            for i in range(2)
        )
        self.mix = Pointwise(params.channels, params.channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(params.channels) for _ in range(2))
        self.blocks = nn.ModuleList(
            SeparableBlock(params.channels, params.kernel_size, lookahead, params.dropout)
            for lookahead in lookaheads
        )
        self.output = Pointwise(params.channels, num_tokens, bias=True)
        self.taps = nn.ModuleList(nn.Identity() for _ in range(params.num_blocks + 1))
        """The front's and every block's output passes through one, for those who want to listen."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def layers(self) -> dict[str, tuple[nn.Module, int]]:
        """The front end and every block."""
        names = ["front", *(f"blocks.{index}" for index in range(len(self.blocks)))]
        width = self.output.in_channels
        return with_last({n: (tap, width) for n, tap in zip(names, self.taps, strict=True)})

    def scores(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, vocab)`."""
        mask: Tensor | None = None
        # A (batch, mels, 1, feature_frames) view of what lies in memory channels-last already.
        x = features.transpose(1, 2).unsqueeze(2)
        for index, stride in enumerate(self.strides):
            x = self.front[index](x)
            if index == 1:
                x = self.mix(x)
            x = torch.relu(self.norms[index](x))
            if lengths is not None:
                lengths = thinned(lengths, stride)
                mask = real_frames(lengths, x.shape[-1])[:, None, None].to(x.dtype)
                x = x * mask
        self._tell(0, x)
        for index, block in enumerate(self.blocks):
            x = block(x, mask)
            self._tell(index + 1, x)
        scores: Tensor = self.output(x)  # (batch, vocab, 1, frames)
        return scores.squeeze(2).transpose(1, 2)

    def _tell(self, index: int, x: Tensor) -> None:
        self.taps[index](x.squeeze(2).transpose(1, 2))  # a view: (batch, frames, channels)


class SeparableConv(SeparableNetwork):
    """Every convolution reads as many frames ahead as behind."""

    def __init__(self, params: SeparableConvParams, num_mels: int, num_tokens: int) -> None:
        super().__init__(
            params,
            num_mels,
            num_tokens,
            front_lookahead=FRONT_KERNEL_SIZE // 2,
            lookaheads=[params.kernel_size // 2] * params.num_blocks,
        )
