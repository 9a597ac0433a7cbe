"""torchaudio's Conformer blocks (Gulati et al., 2020) behind convolutions."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchaudio.models import Conformer

from distillery.models.layers import ConvFrontEnd, Dropout, Network, real_frames, with_last
from distillery.params.models import ConformerParams


def _listen(tap: nn.Module, _block: nn.Module, _inputs: object, output: Tensor) -> None:
    tap(output.transpose(0, 1))


class ConvConformer(Network):
    """Convolutional front end, Conformer blocks, linear output.

    torchaudio's block masks padding in its attention but not before its depthwise convolution,
    which would let an utterance hear its batch; hooks clear those frames.
    """

    layer_stacks = ("blocks.conformer_layers",)

    def __init__(self, params: ConformerParams, num_mels: int, num_tokens: int) -> None:
        super().__init__()
        self.time_reduction = params.time_reduction
        self.front = ConvFrontEnd(num_mels, params.conv_channels, params.time_reduction)
        self.project = nn.Linear(self.front.num_outputs, params.model_size)
        self.dropout = Dropout(params.dropout)
        self.blocks = Conformer(
            params.model_size,
            params.num_heads,
            4 * params.model_size,
            params.num_layers,
            params.kernel_size,
            params.dropout,
        )
        self.output = nn.Linear(params.model_size, num_tokens)
        self._mask: Tensor | None = None
        self.taps = nn.ModuleList(nn.Identity() for _ in self.blocks.conformer_layers)
        for block, tap in zip(self.blocks.conformer_layers, self.taps, strict=True):
            # torchaudio's blocks speak (frames, batch, width).
            block.register_forward_hook(partial(_listen, tap))
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv1d) and module.groups > 1:
                module.register_forward_pre_hook(self._clear_padding)

    @property
    def layers(self) -> dict[str, tuple[nn.Module, int]]:
        """The projected front end and every block."""
        width = self.project.out_features
        blocks = {f"blocks.{index}": (tap, width) for index, tap in enumerate(self.taps)}
        return with_last({"project": (self.project, width), **blocks})

    def _clear_padding(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return inputs if self._mask is None else (inputs[0] * self._mask,)

    def scores(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, vocab)`."""
        x, lengths = self.front(features, lengths)
        x = self.dropout(self.project(x))
        padding: Tensor | None = None
        self._mask = None
        if lengths is not None:
            mask = real_frames(lengths, x.shape[1])
            self._mask = mask[:, None].to(x.dtype)  # (batch, 1, frames)
            padding = ~mask
        x = x.transpose(0, 1)
        for block in self.blocks.conformer_layers:
            x = block(x, padding)
        scores: Tensor = self.output(x.transpose(0, 1))
        return scores
