"""A CTC model as it was published: waveforms at its own rate in, scores over its own tokens out.

`Backend` is what pretrained.py asks of one; `TorchBackend` does most of it for PyTorch modules,
whose subclasses say where their layers are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distillery.models.recogniser import digest_of_weights, save_weights
from distillery.teachers.token_map import TokenTable

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


Published = Mapping[str, Any]
"""Settings as whoever published a model wrote them: only the library that builds it knows them."""


class Backend(Protocol):
    """A CTC model as published, without anything of ours."""

    table: TokenTable
    """Its own tokens."""
    sample_rate_hz: int
    """Of the audio that it was trained on."""
    samples_per_frame: int
    """Distance between the starts of its frames, in samples."""
    window_samples: int
    """What the first frame's convolutions hear, in samples; less gives no frame at all."""
    variance_floor: float | None
    """Waveforms are brought to zero mean and unit variance, with this added to the variance; None:
    they are taken as they are."""
    masks_padding: bool
    """Whether a batch's padding changes no output. If not, every utterance is heard alone."""

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Widths of the hidden layers that it can give; `last` is what the output layer reads."""

    @property
    def num_parameters(self) -> int:
        """Parameters."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""

    @property
    def config(self) -> Published:
        """What `load` of its kind builds it from, in JSON, beside the weights; no paths."""

    def forward(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores `(batch, frames, tokens)` and hidden states `(batch, frames, width)`.

        Args:
            waveforms: `(batch, samples)`, zeros behind the ends.
            lengths: `(batch,)` in samples; all equal where `masks_padding` is false.
            layers: hidden layers wanted, of `layer_widths`.
        """

    def save_weights(self, folder: Path) -> None:
        """Write the weights into an existing folder; equal models give equal bytes."""


@dataclass
class TorchBackend:
    """A backend whose model is a PyTorch module; subclasses say where its layers are."""

    module: nn.Module
    table: TokenTable
    sample_rate_hz: int
    samples_per_frame: int
    window_samples: int
    variance_floor: float | None
    masks_padding: bool
    architecture: Published
    """What it is built from."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder's layers, each giving `(batch, frames, width)`, or a tuple that begins so."""
        raise NotImplementedError

    @property
    def output(self) -> nn.Linear:
        """The output layer."""
        raise NotImplementedError

    def scores(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)`; without lengths nothing is masked."""
        raise NotImplementedError

    @property
    def above(self) -> Sequence[nn.Module]:
        """What lies above the layers, the output layer included; the rest lies beneath them."""
        raise NotImplementedError

    @property
    def extractor(self) -> nn.Module:
        """The convolutions over the waveform."""
        raise NotImplementedError

    @property
    def masks_frames(self) -> bool:
        """Whether `encode` can tell padding from frames."""
        raise NotImplementedError

    def convolve(self, waveforms: Tensor) -> Tensor:
        """Return what the convolutions give `(batch, frames, channels)`."""
        raise NotImplementedError

    def encode(self, convolved: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, tokens)` of what `convolve` gives.

        Args:
            convolved: `(batch, frames, channels)`, any padding behind.
            lengths: `(batch,)` in frames; None: nothing is padding.
        """
        raise NotImplementedError

    @property
    def layer_widths(self) -> Mapping[str, int]:
        """Every encoder layer, and what the output layer reads."""
        width = self.output.in_features
        return {**{f"layers.{i}": width for i in range(len(self.blocks))}, "last": width}

    @property
    def num_parameters(self) -> int:
        """Parameters."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def weights_digest(self) -> str:
        """SHA-256 over all weights and buffers."""
        return digest_of_weights(self.module)

    @property
    def config(self) -> Published:
        """What the module is built from."""
        return self.architecture

    def save_weights(self, folder: Path) -> None:
        """Write the weights."""
        save_weights(self.module, folder)

    def forward(
        self, waveforms: Tensor, lengths: Tensor, layers: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores and hidden states."""
        alone = bool((lengths == waveforms.shape[1]).all())
        with self._recording(layers) as hidden:
            scores = self.scores(waveforms, None if alone else lengths)
        return scores, hidden

    @contextmanager
    def _recording(self, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        hidden: dict[str, Tensor] = {}
        hooks = []
        for name in layers:
            if name == "last":
                hooks.append(self.output.register_forward_pre_hook(_keep_input(hidden)))
            else:
                block = self.blocks[int(name.removeprefix("layers."))]
                hooks.append(block.register_forward_hook(_keep_output(hidden, name)))
        try:
            yield hidden
        finally:
            for hook in hooks:
                hook.remove()


def receptive_field(convolutions: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the distance between frames and the samples that one hears, of stacked convolutions.

    Args:
        convolutions: channels, kernel and stride of each, none of them padded.
    """
    hop, window = 1, 1
    for _, kernel, stride in convolutions:
        window += (kernel - 1) * hop
        hop *= stride
    return hop, window


def _keep_input(hidden: dict[str, Tensor]) -> Callable[..., None]:
    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hidden["last"] = inputs[0]

    return keep


def _keep_output(hidden: dict[str, Tensor], name: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden[name] = output if isinstance(output, Tensor) else output[0]

    return keep
