"""AdamW without PyTorch's compiler.

`torch.optim` keeps its methods away from the compiler, and imports all of it to do so: a third of
the CPU time before the first step of a training that compiles nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

DISABLED = "__dynamo_disable"
"""Where `torch._compile` looks for a method as the compiler leaves it, before it imports that."""


class EagerAdamW(torch.optim.AdamW):
    """AdamW to the bit, its methods called as they are."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take what AdamW takes."""
        for method in vars(torch.optim.Optimizer).values():
            plain, code = getattr(method, "__wrapped__", None), getattr(method, "__code__", None)
            if plain is not None and code is not None and DISABLED in code.co_consts:
                setattr(plain, DISABLED, plain)
        super().__init__(*arguments, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        """Take one step; what is wrapped around AdamW's turns gradients off and no more."""
        return inspect.unwrap(torch.optim.Adam.step)(self, closure)
