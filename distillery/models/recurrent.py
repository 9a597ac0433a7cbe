"""Recurrent layers as training runs them on a CPU.

PyTorch has a fused LSTM there (oneDNN's), and none for training a GRU: its kernels take some forty
small steps a frame, forwards and backwards, for each direction. Here both directions advance
together, six steps a frame forwards and three backwards; what does not wait for the frame before is
computed for all frames at once. Weights, names and results are those of `nn.GRU`, up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distillery.models.pointwise import convolved, gradients


def reversed_order(lengths: Tensor, num_frames: int) -> Tensor:
    """Return indices `(batch, frames)` that reverse each utterance and leave its padding."""
    index = torch.arange(num_frames, device=lengths.device)[None]
    return torch.where(index < lengths[:, None], lengths[:, None] - 1 - index, index)


class _Swap(torch.autograd.Function):
    """Rows in an order that is its own inverse, so that the gradient is reordered alike.

    PyTorch's own gradient of a gather adds into a tensor of zeros, element by element.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return rows.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (order,) = ctx.saved_tensors
        return gradient.index_select(0, order), None


def reverse(x: Tensor, order: Tensor | None) -> Tensor:
    """Return `x` `(batch, frames, width)` with each utterance reversed.

    Args:
        x: what is read backwards, or was.
        order: of `reversed_order`; None: no frame is padding.
    """
    if order is None:
        return x.flip(1)
    if x.device.type != "cpu" or not x.requires_grad:
        return torch.gather(x, 1, order[..., None].expand(-1, -1, x.shape[2]))
    starts = torch.arange(len(x))[:, None] * x.shape[1]
    turned: Tensor = _Swap.apply(x.flatten(0, 1), (starts + order).flatten())  # type: ignore[no-untyped-call]
    return turned.view(x.shape)


class _BidirectionalGRU(torch.autograd.Function):
    """Two GRUs of equal sizes, frame by frame together.

    r = σ(x_r + W_r h + b_r), z = σ(x_z + W_z h + b_z), n = tanh(x_n + r (W_n h + b_n)),
    h' = n + z (h - n), each x of W x + b: Cho et al. (2014) in cuDNN's variant, which PyTorch has.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        """Return states `(directions, frames, batch, hidden)`, of a start at zero.

        Args:
            ctx: keeps what the gradient needs.
            x: what each direction reads, `(directions, frames, batch, inputs)`.
            weights: W of inputs `(3 hidden, inputs)`, W of states `(3 hidden, hidden)` and the two
                biases `(3 hidden,)`, gates r, z, n: of the first direction, then of the second.
        """
        parameters = [weights[start : start + 4] for start in range(0, len(weights), 4)]
        directions, frames, batch, _ = x.shape
        size = weights[1].shape[1]
        # All that does not wait for the frame before. The gates' own part of x stays where their
        # sums are made; for n that place is of W_n h + b_n, as r scales it first.
        gates = x.new_empty(directions, frames, batch, 3 * size)
        news = x.new_empty(directions, frames, batch, size)
        for gate, new, heard, (to_input, _, bias, state_bias) in zip(
            gates, news, x, parameters, strict=True
        ):
            sums = convolved(to_input, bias, heard)
            torch.add(sums[..., : 2 * size], state_bias[: 2 * size], out=gate[..., : 2 * size])
            gate[..., 2 * size :] = state_bias[2 * size :]
            new.copy_(sums[..., 2 * size :])
        states = x.new_zeros(directions, frames + 1, batch, size)
        to_states = torch.stack([to_state.t() for _, to_state, _, _ in parameters])
        state = states.unbind(1)
        rows = zip(
            gates.unbind(1),
            gates[..., : 2 * size].unbind(1),
            *(part.unbind(1) for part in _thirds(gates)),
            news.unbind(1),
            state[:-1],
            state[1:],
            strict=True,
        )
        for whole, both_gates, r, z, heard_n, n, before, after in rows:
            whole.baddbmm_(before, to_states)
            both_gates.sigmoid_()
            n.addcmul_(r, heard_n).tanh_()
            torch.lerp(n, before, z, out=after)
        ctx.save_for_backward(x, states, gates, news, *weights)
        return states[:, 1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of `forward`'s arguments, for that of its states."""
        x, states, gates, news, *weights = ctx.saved_tensors
        size = news.shape[3]
        through_n, slopes = _slopes(states[:, :-1], gates, news)
        to_states = torch.empty_like(news)  # of the loss, by each state
        to_gates = torch.empty_like(gates)  # by each sum that W h is part of
        back = torch.stack(weights[1::4])
        to_state, given = to_states.unbind(1), gradient.unbind(1)
        rows = zip(
            to_state,
            to_gates.unbind(1),
            *(part.unbind(1) for part in _thirds(to_gates)),
            *(slope.unbind(1) for slope in slopes),
            gates[..., size : 2 * size].unbind(1),
            strict=True,
        )
        to_state[-1].copy_(given[-1])
        for frame, (to_h, whole, r, z, n, slope_r, slope_z, slope_n, kept) in reversed(
            list(enumerate(rows))
        ):
            torch.mul(to_h, slope_r, out=r)
            torch.mul(to_h, slope_z, out=z)
            torch.mul(to_h, slope_n, out=n)
            if frame:
                earlier = to_state[frame - 1]
                torch.addcmul(given[frame - 1], to_h, kept, out=earlier).baddbmm_(whole, back)
        found = [
            gradients(place, heard, weight, of_x=False)[1:]
            for place, heard, weight in zip(to_gates, states[:, :-1], weights[1::4], strict=True)
        ]
        torch.mul(to_states, through_n, out=to_gates[..., 2 * size :])  # by each W x instead
        to_x = torch.empty_like(x)
        found_all = []
        for to_heard, place, heard, weight, (of_states, state_bias) in zip(
            to_x, to_gates, x, weights[::4], found, strict=True
        ):
            to_heard_found, of_inputs, bias = gradients(place, heard, weight)
            assert to_heard_found is not None
            to_heard.copy_(to_heard_found)
            found_all += [of_inputs, of_states, bias, state_bias]
        return to_x, *found_all


def _slopes(before: Tensor, gates: Tensor, news: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return what n's sum, and each sum that `W h` is part of, is worth to the state.

    All `(directions, frames, batch, hidden)`; the list is of r, z and n.
    """
    r, z, heard_n = _thirds(gates)
    other = 1 - z
    through_n = (1 - news.square()).mul_(other)
    slope_n = through_n * r
    slope_r = (1 - r).mul_(slope_n).mul_(heard_n)
    return through_n, [slope_r, (before - news).mul_(z).mul_(other), slope_n]


def _thirds(x: Tensor) -> list[Tensor]:
    """Return the parts of the gates r, z and n of `(…, 3 hidden)`."""
    size = x.shape[-1] // 3
    return [x[..., start : start + size] for start in range(0, 3 * size, size)]


def bidirectional_gru(x: Tensor, order: Tensor | None, ahead: nn.GRU, back: nn.GRU) -> Tensor:
    """Return what one layer's two directions say, `(batch, frames, 2 x hidden)`.

    Args:
        x: `(batch, frames, inputs)`, on a CPU.
        order: as of `reverse`.
        ahead: the layer that reads forwards, batch first.
        back: the layer that reads each utterance backwards.
    """
    heard = torch.stack([x.transpose(0, 1), reverse(x, order).transpose(0, 1)])
    weights = [weight for layer in (ahead, back) for weight in layer.all_weights[0]]
    states = _BidirectionalGRU.apply(heard, *weights).transpose(1, 2)  # type: ignore[no-untyped-call]
    return torch.cat([states[0], reverse(states[1], order)], dim=-1)
