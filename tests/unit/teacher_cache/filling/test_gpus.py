"""A GPU for each local worker: real workers of Dask, on a machine that may have no GPU."""

from __future__ import annotations

import os
import time

import pytest
import torch

from distillery.errors import ModelError
from distillery.teacher_cache.filling import gpus
from distillery.teacher_cache.filling.gpus import VISIBLE, gpus_of
from distillery.teacher_cache.filling.workers import Workers


def has_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_workers_share_the_gpus_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpus(monkeypatch, 2)
    monkeypatch.delenv(VISIBLE, raising=False)
    assert gpus_of("auto") == gpus_of("cuda") == ["0", "1"]
    assert gpus_of("cpu") == gpus_of("cuda:1") == []
    monkeypatch.setenv(VISIBLE, "5, GPU-8f2")
    assert gpus_of("auto") == ["5", "GPU-8f2"]
    with pytest.raises(ModelError, match="'cuda:2' is set, this machine shows 2"):
        gpus_of("cuda:2")
    has_gpus(monkeypatch, 0)
    assert gpus_of("auto") == []


def test_each_worker_sees_one_gpu_also_when_it_was_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "gpus_of", lambda device: ["3", "5"] if device == "auto" else [])
    monkeypatch.setenv(VISIBLE, "3,5")
    with Workers(2, "auto") as workers:
        client = workers._client
        shown = client.run(os.getenv, VISIBLE)
        assert sorted(shown.values()) == ["3", "5"]
        address = next(address for address, gpu in shown.items() if gpu == "5")
        client.restart_workers([address], timeout=60)
        end = time.monotonic() + 60
        while address in client.run(os.getpid, on_error="ignore") and time.monotonic() < end:
            time.sleep(0.1)
        assert sorted(client.run(os.getenv, VISIBLE).values()) == ["3", "5"]
    assert os.environ[VISIBLE] == "3,5"
