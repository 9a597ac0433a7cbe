"""Batch normalisation over the rows of all processes that train one network together.

PyTorch's own SyncBatchNorm does the same, and runs on GPUs alone. This one is made of sums that any
backend of torch.distributed computes, so that what is tested on CPUs is what runs on GPUs.

Source: Ioffe and Szegedy (2015), arXiv 1502.03167.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from distillery.models.share import taken


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation whose mean and variance are those of the whole batch."""

    @classmethod
    def of(cls, norm: _BatchNorm) -> SharedBatchNorm:
        """Return one with the weights and statistics of another, the same tensors."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        return shared.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, channels, …)`, normalised by channel; padding counts, as in PyTorch."""
        if not self.training:
            return super().forward(x)
        share = taken()
        counts = float(share is None or share.counts)
        over = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        values = x.float()
        number = torch.tensor([x.numel() / x.shape[1]], dtype=torch.float64, device=x.device)
        sums = torch.cat([values.sum(over, dtype=torch.float64), number]) * counts
        sums = _summed(sums)  # (channels + 1,)
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean.float().view(shape)
        squares = centred.square().sum(over, dtype=torch.float64) * counts
        variance = _summed(squares) / total
        scale = (variance + self.eps).rsqrt().float()
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale.view(shape)
        if self.affine:
            normalised = normalised + self.bias.view(shape)
        self._track(mean.detach(), variance.detach() * total / (total - 1).clamp(min=1))
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Take a batch's statistics into the running ones, as PyTorch does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


def share_batch_norms(network: nn.Module) -> None:
    """Replace the batch normalisations of a network that are trained.

    Those that keep the statistics of pre-training are in evaluation mode and stay.

    Args:
        network: in training mode; weights and names stay.
    """
    for name, module in list(network.named_children()):
        if isinstance(module, _BatchNorm) and module.training:
            network.add_module(name, SharedBatchNorm.of(module))
        else:
            share_batch_norms(module)


def _summed(values: Tensor) -> Tensor:
    summed: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return summed
