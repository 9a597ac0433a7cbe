"""Where a model runs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from distillery.errors import ModelError

logger = logging.getLogger(__name__)


def choose_device(wanted: str) -> str:
    """Return `cuda` or `cpu` for `auto`, else what was asked for.

    Raises:
        ModelError: a GPU was asked for and is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda" if count else "cpu"
    kind, _, number = wanted.partition(":")
    if kind == "cuda" and int(number or 0) >= count:
        shown = f"{count}, counted from 0" if count else "no GPU"
        raise ModelError(f"device: {wanted!r} is set, this machine shows {shown}; use 'auto'")
    return wanted


def choose_precision(wanted: str, device: str) -> str:
    """Return `fp32` or `bf16` for `auto`, else what was asked for.

    A CPU without instructions for bf16 emulates it, which made a training step of an LSTM teacher
    20 times as long: auto never does that, and whoever asks for it is warned.
    """
    computes_bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if torch.device(device).type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    if wanted == "auto":
        return "bf16" if computes_bf16 else "fp32"
    if wanted == "bf16" and not computes_bf16:
        logger.warning("precision: 'bf16' is set, this %s emulates it, slowly; use 'auto'", device)
    return wanted


@contextlib.contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Let torch use this many CPU threads inside the block.

    Work on single utterances is fastest on one: more threads mostly wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
