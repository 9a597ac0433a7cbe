"""Where weights of pre-trained models come from, and what of them is let in.

A file is here, or the publisher's host can be reached, or there is an error at once that says which
file to put where. Nothing is unpickled that could run code: safetensors, or tensors alone.
"""

from __future__ import annotations

import difflib
import logging
import os
import pickle
import re
import socket
import threading
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from distillery.errors import ModelError

REACH_SECONDS = 3.0
SAFETENSORS = ".safetensors"
OFFLINE_SETTINGS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")

logger = logging.getLogger(__name__)


def can_reach(url: str, seconds: float = REACH_SECONDS) -> bool:
    """Return whether a connection to a URL's host, or to the proxy before it, can be opened.

    Libraries that download try again for minutes; this is asked first.

    Args:
        url: what would be read.
        seconds: after which the answer is no, name resolution included.
    """
    if any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE_SETTINGS
    ):
        return False
    target = urlsplit(url)
    host = target.hostname or ""
    if not urllib.request.proxy_bypass(host):
        proxy = urllib.request.getproxies().get(target.scheme)
        target = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}") if proxy else target
    port = target.port or (80 if target.scheme == "http" else 443)
    answers: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((target.hostname or "", port), seconds).close()
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=connect, daemon=True)  # resolving a name knows no time limit
    thread.start()
    thread.join(seconds)
    return bool(answers)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a clause that suggests what may have been meant, such as `did you mean 'X'?`."""
    names = sorted(names)
    found = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.4)
    return f"did you mean {found[0]!r}?" if found else f"expected one of {', '.join(names)}"


def download(url: str, path: Path, what: str, instead: str) -> Path:
    """Return a file, fetched from its publisher unless it is here already.

    Args:
        url: where it is published.
        path: where it is kept.
        what: whose file it is, for errors.
        instead: what to do where there is no network, such as `or set teacher.weights to …`.

    Raises:
        ModelError: it is not here, and cannot be fetched.
    """
    if path.exists():
        return path
    if not can_reach(url):
        raise ModelError(
            f"{what}: weights are not here ({path}), and {urlsplit(url).hostname} cannot be "
            f"reached; download {url} elsewhere and put it there, {instead}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    logger.info("%s: downloading %s to %s", what, url, path)
    try:
        torch.hub.download_url_to_file(url, str(path))
    except OSError as error:
        raise ModelError(
            f"{what}: {url} cannot be downloaded: {error}; try again, or put the file at {path}, "
            f"{instead}"
        ) from None
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file, on the CPU.

    Args:
        path: a .safetensors file, or one of PyTorch's that holds a state dict and nothing else.

    Raises:
        ModelError: it is missing, cut short, holds code, or something else than tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weight file")
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ModelError(
            f"{path}: cannot be read as safetensors: {error}; it was cut short or damaged, "
            "download it again"
        ) from None
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: {_why_refused(str(error))}") from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(
            f"{path}: cannot be read: {_first_line(error)}; it was cut short or damaged, "
            "download it again"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        inside = f"a dict of {sorted(map(str, state))[:6]}" if isinstance(state, dict) else ""
        raise ModelError(
            f"{path}: holds {inside or type(state).__name__}, expected a state dict, that is "
            "tensors by name; save module.state_dict() alone"
        )
    return state


def fit_state(
    module: nn.Module, state: Mapping[str, Tensor], source: Path, optional: str = r"(?!)"
) -> None:
    """Give a module its weights; every one of them must be there, in the right shape.

    Args:
        module: the model.
        state: tensors by name; both spellings of weight normalisation are understood.
        source: where they come from, for errors.
        optional: pattern of names that inference does not need; those that are missing become 0,
            so that equal files give equal models.

    Raises:
        ModelError: one is missing or of another shape, or there is one too many.
    """
    expected = module.state_dict()
    renamed = {_modern(name): value for name, value in state.items()}
    for name in sorted(expected):
        if name not in renamed and re.fullmatch(optional, name):
            renamed[name] = torch.zeros_like(expected[name])
    wrong = [
        f"{name} is {_shape(renamed.get(name))}, expected {_shape(expected.get(name))}"
        for name in [*expected, *(name for name in renamed if name not in expected)]
        if _shape(renamed.get(name)) != _shape(expected.get(name))
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        raise ModelError(
            f"{source}: does not fit the model: tensor {wrong[0]}{more}; these are another model's "
            "weights, or a part of them"
        )
    module.load_state_dict(renamed)


def _modern(name: str) -> str:
    name = re.sub(r"\bweight_g$", "parametrizations.weight.original0", name)
    return re.sub(r"\bweight_v$", "parametrizations.weight.original1", name)


def _shape(tensor: Tensor | None) -> str:
    return "not there" if tensor is None else f"{tuple(tensor.shape)}"


def _first_line(error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    return first.split(". ")[0] or type(error).__name__


def _why_refused(message: str) -> str:
    blocked = re.search(r"GLOBAL (\S+)", message)
    if blocked is None:
        return (
            "refused: it does not hold tensors alone; it is damaged and must be downloaded again, "
            "or a pickle that could run code, of which .safetensors are wanted"
        )
    return (
        f"refused: it is a pickle that holds more than tensors ({blocked[1]}), and reading it "
        "could run whatever its author put there; where you trust it, load it once elsewhere and "
        "save its state dict as .safetensors"
    )
