"""What each of several processes takes, and where it runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distillery.errors import ModelError
from distillery.models.layers import Dropout
from distillery.models.share import Share, taken
from distillery.params.training import TrainingParams
from distillery.training.processes import ALONE, Processes, draws_by_rows


def params(**changes: object) -> TrainingParams:
    return TrainingParams.model_validate({"num_epochs": 1, **changes})


@pytest.mark.parametrize(("num_rows", "count"), [(7, 2), (7, 3), (3, 3), (1, 2), (2, 5)])
def test_every_row_counts_for_one_process_and_none_has_nothing_to_do(
    num_rows: int, count: int
) -> None:
    shares = [Processes(count, rank).share_of(num_rows) for rank in range(count)]
    assert all(share is not None and len(share.rows) for share in shares)
    counted = [row for share in shares if share and share.counts for row in share.rows]
    assert sorted(counted) == list(range(num_rows))
    assert ALONE.share_of(num_rows) is Processes.wanted(4).share_of(num_rows) is None


def test_one_process_has_the_batch_to_itself_and_several_wait_for_theirs() -> None:
    assert Processes.wanted(1) == ALONE and not ALONE.waits and ALONE.writes
    waiting = Processes.wanted(2)
    assert waiting.waits and waiting.writes and not waiting.are_several
    assert [Processes(2, rank).writes for rank in range(2)] == [True, False]
    assert ALONE.sums([1.5, 2.0]) == [1.5, 2.0]


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    auto = params(precision="auto")
    assert [Processes(2, rank).hardware(auto) for rank in range(2)] == [
        ("cuda:0", "bf16"),
        ("cuda:1", "bf16"),
    ]
    assert ALONE.hardware(auto) == ("cuda", "bf16")
    assert Processes.wanted(2).hardware(auto) == ("cpu", "fp32"), "who waits computes nothing"
    assert Processes(3, 2).hardware(params(device="cpu")) == ("cpu", "fp32")
    with pytest.raises(ModelError, match="num_processes is 3, this machine shows 2 GPUs, expected"):
        Processes.wanted(3).hardware(auto)
    with pytest.raises(ModelError, match="num_processes is 2, and device names one GPU, 'cuda:1'"):
        Processes.wanted(2).hardware(params(device="cuda:1"))
    assert ALONE.hardware(params(device="cuda:1")) == ("cuda:1", "fp32")


def test_shares_of_a_dropout_are_what_one_process_drops() -> None:
    dropout = Dropout(0.4)
    for shape in ((5, 7, 3), (1, 4, 2)):
        x = torch.rand(shape) + 1
        torch.manual_seed(3)
        whole = dropout(x)
        found = torch.zeros_like(x)
        for rank in range(2):
            processes = Processes(2, rank)
            share = processes.share_of(len(x))
            assert share is not None
            torch.manual_seed(3)
            with processes.drawing(share):
                assert taken() is share
                found[list(share.rows)] = dropout(x[list(share.rows)])
        assert taken() is None
        assert torch.equal(found, whole) and (whole == 0).any()


def test_noise_of_other_layers_differs_by_process_and_leaves_the_common_generator_alone() -> None:
    dropout, x, found = nn.Dropout(0.5), torch.ones(100), []
    for rank in range(2):
        torch.manual_seed(3)
        with Processes(2, rank).drawing(Share([0], 2), (0, 1, 2)):
            found.append(dropout(x))
        found.append(torch.rand(3))
    torch.manual_seed(3)
    assert torch.equal(found[1], found[3]) and torch.equal(found[1], torch.rand(3))
    assert not torch.equal(found[0], found[2])


def test_who_draws_for_rows_that_it_does_not_see_is_known() -> None:
    assert draws_by_rows(nn.Sequential(Dropout(0.1), nn.Dropout(0.0)), "cpu")
    assert not draws_by_rows(nn.Sequential(Dropout(0.1)), "cuda:0")
    assert draws_by_rows(nn.Sequential(Dropout(0.0)), "cuda:0")
    assert not draws_by_rows(nn.Sequential(nn.Dropout(0.1)), "cpu")
    assert not draws_by_rows(nn.MultiheadAttention(4, 2, dropout=0.1), "cpu")


def test_a_loss_is_weighted_by_the_utterances_that_it_is_a_mean_over() -> None:
    """Of one that is alone: its own, but for one with nothing to count."""
    terms = {"loss": torch.tensor(3.0, requires_grad=True), "ctc": torch.tensor(2.0)}
    loss, means, spent = ALONE.loss_of_all(terms, 4.0, 1.5)
    assert float(loss.detach()) == 3.0 and spent == 1.5
    assert {name: float(value) for name, value in means.items()} == {"loss": 3.0, "ctc": 2.0}
    loss, means, _ = ALONE.loss_of_all(terms, 0.0, 0.0)
    assert float(loss.detach()) == float(means["loss"]) == 0.0
