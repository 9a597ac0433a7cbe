"""The student as a user of a peer writes it: PyTorch's one-dimensional layers as they come.

Its names are those of `distillery.architectures.separable_conv`, so that both begin from equal
weights. Nothing but PyTorch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

FRONT_KERNEL_SIZE = 5


def real_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """Return the mask `(batch, frames)`, True where a frame is real."""
    return torch.arange(num_frames)[None] < lengths[:, None]


class Block(nn.Module):
    """Depthwise over time, pointwise over channels, normalised, with a residual path."""

    def __init__(self, channels: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=channels,
            bias=False,
        )
        self.pointwise = nn.Conv1d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return `(batch, channels, frames)` for the same shape."""
        change = self.norm(self.pointwise(self.depthwise(x * mask)))
        return torch.relu(x + self.dropout(change))


class PlainStudent(nn.Module):
    """Strided convolutions, residual separable blocks, pointwise output."""

    def __init__(
        self,
        num_mels: int,
        num_tokens: int,
        channels: int,
        num_blocks: int,
        kernel_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.front = nn.ModuleList(
            nn.Conv1d(
                num_mels if index == 0 else channels,
                channels,
                FRONT_KERNEL_SIZE,
                stride=2 - index,
                padding=FRONT_KERNEL_SIZE // 2,
                groups=1 if index == 0 else channels,
                bias=False,
            )
            for index in range(2)
        )
        self.mix = nn.Conv1d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(2))
        self.blocks = nn.ModuleList(
            Block(channels, kernel_size, dropout) for _ in range(num_blocks)
        )
        self.output = nn.Conv1d(channels, num_tokens, 1)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores `(batch, frames, vocab)`, lengths `(batch,)`, states `(batch, frames, c)`.

        Args:
            features: `(batch, feature_frames, mels)`.
            lengths: `(batch,)`.
        """
        lengths = (lengths + 1) // 2
        x = torch.relu(self.norms[0](self.front[0](features.transpose(1, 2))))
        mask = real_frames(lengths, x.shape[-1])[:, None].to(x.dtype)
        x = torch.relu(self.norms[1](self.mix(self.front[1](x * mask)))) * mask
        for block in self.blocks:
            x = block(x, mask)
        return self.output(x).transpose(1, 2), lengths, x.transpose(1, 2)

    def take_over(self, weights: Mapping[str, Tensor]) -> None:
        """Begin from the weights of our layout, whose kernels have a dimension of size 1 more."""
        self.load_state_dict({k: x.squeeze(2) if x.dim() == 4 else x for k, x in weights.items()})
