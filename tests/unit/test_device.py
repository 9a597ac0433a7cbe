"""Where models run, and with which arithmetic."""

import logging

import pytest
import torch

from distillery.device import choose_device, choose_precision
from distillery.errors import ModelError


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_so() -> None:
    assert choose_device("auto") == "cpu"
    with pytest.raises(ModelError, match="this machine shows no GPU; use 'auto'"):
        choose_device("cuda")


def test_one_gpu_of_several_is_taken_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ModelError, match=r"'cuda:2' is set, this machine shows 2, counted from 0"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("computes", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bf16_only_where_the_cpu_computes_it(
    computes: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: computes)
    assert choose_precision("auto", "cpu") == expected


def test_bf16_on_a_cpu_that_emulates_it_is_done_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert choose_precision("bf16", "cpu") == "bf16"
    assert "this cpu emulates it, slowly; use 'auto'" in caplog.text
    assert choose_precision("fp32", "cpu") == "fp32"
