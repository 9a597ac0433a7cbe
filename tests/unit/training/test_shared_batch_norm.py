"""Batch normalisation of rows that several processes hold, here those of one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from distillery.training.shared_batch_norm import SharedBatchNorm, share_batch_norms


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of one process; two are in tests/unit/teachers."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", (tmp_path / "group").as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_it_is_pytorchs_batch_norm(group: None, kind: type[nn.BatchNorm1d]) -> None:
    shape = (5, 3, 7) if kind is nn.BatchNorm1d else (5, 3, 7, 2)
    torch.manual_seed(0)
    norm = kind(3)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    drawn, found = 3 + 2 * torch.randn(shape), []
    for module in (norm, SharedBatchNorm.of(copy.deepcopy(norm))):
        x = drawn.clone().requires_grad_()
        out = module(x)
        out.square().mul(torch.arange(7.0).view(1, 1, 7, *[1] * (x.dim() - 3))).sum().backward()
        state = list(module.state_dict().values())
        found.append([out, x.grad, module.weight.grad, module.bias.grad, *state, module.eval()(x)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_norms_that_train_are_replaced_and_keep_their_names_and_tensors() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.BatchNorm2d(2))
    network[1].eval()
    state = network.state_dict(keep_vars=True)
    share_batch_norms(network)
    assert [type(module) for module in (*network[0], network[1])] == [
        nn.Linear,
        SharedBatchNorm,
        nn.BatchNorm2d,
    ]
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(state) and all(after[name] is state[name] for name in state)
