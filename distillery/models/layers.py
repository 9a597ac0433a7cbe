"""What teachers and students have in common: the network's interface and shared layers.

Shapes: features `(batch, feature_frames, mels)`, lengths `(batch,)` in frames, outputs
`(batch, frames, vocab)` raw scores. Padding never reaches a real frame: every layer that looks
sideways sees zeros where the utterance has ended, so a row does not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from distillery.errors import ModelError
from distillery.models.recurrent import bidirectional_gru, reverse, reversed_order
from distillery.models.share import taken
from distillery.params.models import ConvBiLSTMParams, CRNNParams


class Network(nn.Module):
    """A frame-synchronous network from features to token scores."""

    time_reduction: int
    layer_stacks: tuple[str, ...] = ()
    """Module lists that hold the equal layers, all as long; none where it cannot be sliced."""
    may_leave_layers_out: bool = False
    """Whether some weights may have no gradient in a step."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(batch, frames, vocab)` and their lengths `(batch,)`."""
        return self.scores(features, lengths), self.num_output_frames(lengths)

    def scores(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, vocab)`.

        Args:
            features: `(batch, feature_frames, mels)`.
            lengths: `(batch,)`; None where nothing is padding, which spares every mask.
        """
        raise NotImplementedError

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return what is trained, in groups, each with its share of the step size; output last."""
        return [(1.0, list(self.parameters()))]

    @torch.no_grad()
    def start_even(self) -> None:
        """Set the output layer to 0, so that at first no token is likelier than another.

        Random weights there make some tokens, or the blank, 10 to 100 times as likely as others in
        every frame; CTC then begins from alignments that a training may never leave.
        """
        for name, parameter in self.named_parameters():
            if name.startswith("output."):
                parameter.zero_()

    @property
    def layers(self) -> dict[str, tuple[nn.Module, int]]:
        """Hidden layers that may be asked for, by name: the module that gives it, its width.

        Every module named here returns `(batch, frames, width)` at the rate of the output. `last`
        is another name of the one that the output layer reads.
        """
        return {}

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """Return the widths of some of `layers`.

        Raises:
            ModelError: the network has no such layer.
        """
        return {name: self._layer(name)[1] for name in names}

    def _layer(self, name: str) -> tuple[nn.Module, int]:
        layers = self.layers
        if name not in layers:
            raise ModelError(
                f"layer {name!r}: unknown to this network, expected one of {list(layers)}"
            )
        return layers[name]

    @contextmanager
    def recording(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Yield a dict that every forward pass inside the block fills with hidden states.

        Args:
            names: of `layers`; each entry becomes `(batch, frames, width)`.

        Raises:
            ModelError: the network has no such layer.
        """
        found: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for name in names:
                handle = self._layer(name)[0].register_forward_hook(
                    lambda _module, _inputs, output, name=name: found.update({name: output})
                )
                stack.callback(handle.remove)
            yield found

    def num_output_frames(self, lengths: Tensor) -> Tensor:
        """Return output lengths for feature lengths `(batch,)`."""
        return thinned(lengths, self.time_reduction)


class NetworkStream(Protocol):
    """A network on its way through one utterance."""

    def push(self, features: Tensor, *, last: bool = False) -> Tensor:
        """Return the scores `(new frames, vocab)` that `(feature_frames, mels)` more settle.

        Together they are what `Network.forward` gives for the whole utterance.
        """


class StreamingNetwork(Network):
    """A network whose outputs do not wait for the utterance's end."""

    lookahead_frames: int
    """Output frame t reads feature frames up to `time_reduction * (t + lookahead_frames)`."""

    def stream(self) -> NetworkStream:
        """Return the network at the start of one utterance, to be fed piece by piece."""
        raise NotImplementedError


def with_last(layers: Mapping[str, tuple[nn.Module, int]]) -> dict[str, tuple[nn.Module, int]]:
    """Return a network's layers, first to last, with the name `last` for the last of them."""
    return {**layers, "last": list(layers.values())[-1]}


def thinned(lengths: Tensor, stride: int) -> Tensor:
    """Return lengths `(batch,)` behind a stride, rounded up.

    Of positive numbers, for ONNX divides integers towards zero, not down.
    """
    return (lengths + stride - 1) // stride


def real_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """Return the mask `(batch, frames)`, True where a frame is real."""
    return torch.arange(num_frames, device=lengths.device)[None] < lengths[:, None]


class Dropout(nn.Dropout):
    """Dropout whose random numbers are cheap on CPUs (Srivastava et al., 2014).

    PyTorch draws one Bernoulli variable an element there, 15 % of a small student's step. Here 16
    random bits decide, four elements to a draw, so the probability is right to 2^-17.
    """

    LEVELS = 2**16

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, in training with elements set to 0 and the others scaled up to the mean."""
        threshold = round(self.p * self.LEVELS)
        dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
        if not self.training or x.device.type != "cpu" or not dense or threshold == self.LEVELS:
            return super().forward(x)
        levels = self._draw(x)
        kept = (levels >= threshold - self.LEVELS // 2).to(x.dtype)
        return x * kept.mul_(self.LEVELS / (self.LEVELS - threshold))

    @staticmethod
    def _draw(x: Tensor) -> Tensor:
        """Return 16 random bits for each element, shape and layout as of `x`."""
        share = taken()
        row = x.numel() // max(1, len(x))
        num_rows = len(x) if share is None else share.num_rows
        draws = torch.empty(-(-row * num_rows // 4), dtype=torch.int64).random_(-(2**63), None)
        shape, stride = (num_rows, *x.shape[1:]), (row, *x.stride()[1:])
        levels = draws.view(torch.int16).as_strided(shape, stride)
        return levels if share is None else levels[list(share.rows)]


class ConvFrontEnd(nn.Module):
    """Two convolutions over time and mels; halves the mels twice and time once to three times.

    Kernels hear 3 bands and 3 frames, or 5 where only every fourth frame is kept.
    """

    def __init__(self, num_mels: int, channels: int, time_reduction: int) -> None:
        super().__init__()
        time_strides = {2: (2, 1), 4: (2, 2), 8: (2, 4)}[time_reduction]
        kernels = [3 if stride < 3 else 5 for stride in time_strides]
        sizes = [1, channels, channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(
                sizes[i],
                sizes[i + 1],
                (kernels[i], 3),
                stride=(time_strides[i], 2),
                padding=(kernels[i] // 2, 1),
                bias=False,
            )
            for i in range(2)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.time_strides = time_strides
        self.num_outputs = channels * math.ceil(num_mels / 4)
        # On CPUs a training step of it takes 0.6 of the time so, in fp32; 0.8 in bf16.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, features: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return `(batch, frames, channels x bands)` and lengths `(batch,)`; None stays None."""
        x = features[:, None]  # (batch, 1, feature_frames, mels)
        for convolution, norm, stride in zip(
            self.convolutions, self.norms, self.time_strides, strict=True
        ):
            x = norm(convolution(x))  # (batch, channels, frames, bands)
            if lengths is not None:
                lengths = thinned(lengths, stride)
                x = x.mul_(real_frames(lengths, x.shape[2])[:, None, :, None])
            x = x.relu_()
        return x.transpose(1, 2).flatten(2), lengths


class BidirectionalRecurrent(nn.Module):
    """Bidirectional recurrent layers that stop at each utterance's own end.

    The backward direction reads a copy that is reversed within each utterance's length, so the
    padding comes last in both and reaches no real frame. On CPUs a training step takes about
    0.4 of what packed sequences need, whose kernels advance frame by frame.
    """

    def __init__(
        self,
        kind: type[nn.LSTM] | type[nn.GRU],
        num_inputs: int,
        hidden_size: int,
        num_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        sizes = [num_inputs] + [2 * hidden_size] * (num_layers - 1)
        self.forwards = nn.ModuleList(kind(size, hidden_size, batch_first=True) for size in sizes)
        self.backwards = nn.ModuleList(kind(size, hidden_size, batch_first=True) for size in sizes)
        self.dropout = Dropout(dropout)
        self.taps = nn.ModuleList(nn.Identity() for _ in sizes)
        """Each layer's output passes through one, for those who want to listen."""

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Return `(batch, frames, 2 x hidden_size)` for `(batch, frames, inputs)`."""
        order = None if lengths is None else reversed_order(lengths, x.shape[1])
        for index, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if index:
                x = self.dropout(x)
            x = self.taps[index](self._layer(x, order, ahead, back))
        return x

    def _layer(self, x: Tensor, order: Tensor | None, ahead: nn.Module, back: nn.Module) -> Tensor:
        if (
            isinstance(ahead, nn.GRU)
            and isinstance(back, nn.GRU)
            and self.training
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
        ):
            return bidirectional_gru(x, order, ahead, back)
        backwards = reverse(back(reverse(x, order))[0], order)
        return torch.cat([ahead(x)[0], backwards], dim=-1)


class ConvRecurrent(Network):
    """Convolutional front end, bidirectional recurrent layers, linear output."""

    layer_stacks = ("recurrent.forwards", "recurrent.backwards")

    def __init__(
        self,
        kind: type[nn.LSTM | nn.GRU],
        params: ConvBiLSTMParams | CRNNParams,
        num_mels: int,
        num_tokens: int,
    ) -> None:
        super().__init__()
        self.time_reduction = params.time_reduction
        self.front = ConvFrontEnd(num_mels, params.conv_channels, params.time_reduction)
        self.project = nn.Linear(self.front.num_outputs, params.hidden_size)
        self.recurrent = BidirectionalRecurrent(
            kind, params.hidden_size, params.hidden_size, params.num_layers, params.dropout
        )
        self.dropout = Dropout(params.dropout)
        self.output = nn.Linear(2 * params.hidden_size, num_tokens)

    @property
    def layers(self) -> dict[str, tuple[nn.Module, int]]:
        """The projected front end and every recurrent layer."""
        width = self.output.in_features
        recurrent = {
            f"recurrent.{index}": (tap, width) for index, tap in enumerate(self.recurrent.taps)
        }
        return with_last({"project": (self.project, self.project.out_features), **recurrent})

    def scores(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """Return scores `(batch, frames, vocab)`."""
        x, lengths = self.front(features, lengths)
        x = self.dropout(self.project(x).relu())
        scores: Tensor = self.output(self.dropout(self.recurrent(x, lengths)))
        return scores
