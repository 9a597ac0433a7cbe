"""Weight files: what is let in, what is refused, and what is said about it."""

from __future__ import annotations

import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distillery.errors import ModelError
from distillery.models.recogniser import digest_of_weights
from distillery.teachers import weights
from distillery.teachers.weights import (
    can_reach,
    download,
    fit_state,
    nearest,
    read_state,
)
from tests.attacks import Payload


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_both_formats_are_read(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"model{suffix}", {"a": torch.arange(3.0)}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert torch.equal(read_state(path)["a"], state["a"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"model{suffix}", {"a": torch.arange(3000.0)}
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    content = path.read_bytes()
    for size in (0, 20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError, match=rf"model\{suffix}: .*download"):
            read_state(path)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, as_zip: bool) -> None:
    path, witness = tmp_path / "model.pt", tmp_path / "witness"
    content = {"weights": torch.zeros(2), "more": Payload(witness)}
    if as_zip:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(Payload(witness), protocol=2))
    with pytest.raises(ModelError, match=r"model\.pt: refused: .*safetensors"):
        read_state(path)
    assert not witness.exists()


def test_a_checkpoint_around_the_weights_is_explained(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(2)}, "epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"\['epoch', 'model'\], expected a state dict"):
        read_state(tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"other\.pt: no such weight file"):
        read_state(tmp_path / "other.pt")


def test_weights_of_another_shape_name_tensor_found_and_expected() -> None:
    module, path = nn.Linear(3, 2), Path("model.pt")
    state = {"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}
    with pytest.raises(ModelError, match=r"weight is \(4, 3\), expected \(2, 3\) \(and 1 more"):
        fit_state(module, state, path)
    with pytest.raises(ModelError, match=r"bias is not there, expected \(2,\)"):
        fit_state(module, {"weight": torch.zeros(2, 3)}, path)
    more = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "head": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"head is \(1,\), expected not there"):
        fit_state(module, more, path)


def test_what_inference_does_not_need_becomes_zero() -> None:
    module = nn.Linear(3, 2)
    fit_state(module, {"weight": torch.ones(2, 3)}, Path("model.pt"), optional="bias")
    assert not module.bias.any()


def test_both_spellings_of_weight_normalisation_are_the_same() -> None:
    one, other = (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)) for _ in range(2))
    state = one.state_dict()
    old = {
        "bias": state["bias"],
        "weight_g": state["parametrizations.weight.original0"],
        "weight_v": state["parametrizations.weight.original1"],
    }
    fit_state(other, old, Path("model.pt"))
    assert digest_of_weights(one) == digest_of_weights(other)


def test_a_host_that_answers_is_reached_and_offline_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/model.pt"
        assert can_reach(url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not can_reach(url)
        monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not can_reach(url)


def test_a_name_that_never_resolves_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> socket.socket:
        time.sleep(1.5)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", slow)
    started = time.monotonic()
    assert not can_reach("https://example.org/model.pt", seconds=0.2)
    assert time.monotonic() - started < 1


def test_without_network_the_error_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, url = tmp_path / "hub/model.pth", "https://example.org/models/model.pth"
    with pytest.raises(ModelError) as caught:
        download(url, path, "teacher: bundle X", "or set teacher.weights")
    assert str(path) in str(caught.value) and url in str(caught.value)
    assert "or set teacher.weights" in str(caught.value) and not path.parent.exists()
    path.parent.mkdir()
    path.write_bytes(b"here")
    assert download(url, path, "teacher: bundle X", "") == path


def test_a_file_is_fetched_where_its_host_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "published.pth")
    monkeypatch.setattr(weights, "can_reach", lambda _: True)
    url = (tmp_path / "published.pth").as_uri()
    path = download(url, tmp_path / "hub/model.pth", "teacher: bundle X", "")
    assert read_state(path)["a"] == 1
    with pytest.raises(ModelError, match="cannot be downloaded"):
        download(f"{url}.none", tmp_path / "hub/other.pth", "teacher: bundle X", "")
    assert not (tmp_path / "hub/other.pth").exists()


def test_the_nearest_name_is_suggested() -> None:
    names = ["WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE"]
    assert nearest("wav2vec2_base_960h", names) == "did you mean 'WAV2VEC2_ASR_BASE_960H'?"
    assert nearest("?", names) == "expected one of HUBERT_ASR_LARGE, WAV2VEC2_ASR_BASE_960H"
