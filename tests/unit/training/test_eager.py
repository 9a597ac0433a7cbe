"""A training imports no compiler, and its steps are AdamW's."""

import subprocess
import sys

import torch

from distillery.training.eager import EagerAdamW

SCRIPT = """
import sys, torch
from distillery.training.eager import EagerAdamW
torch.set_deterministic_debug_mode("error")
layer = torch.nn.Linear(2, 2)
optimiser = EagerAdamW([{"params": layer.parameters(), "share": 1.0}], fused=True)
layer(torch.ones(1, 2)).sum().backward()
torch.nn.utils.clip_grad_norm_(layer.parameters(), 5.0)
optimiser.step()
optimiser.zero_grad(set_to_none=True)
optimiser.load_state_dict(optimiser.state_dict())
assert torch.are_deterministic_algorithms_enabled()
print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))])
"""


def test_an_optimiser_steps_and_is_saved_without_the_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_steps_are_those_of_adamw() -> None:
    found = []
    for kind in (EagerAdamW, torch.optim.AdamW, EagerAdamW):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        optimiser = kind(layer.parameters(), lr=0.1, weight_decay=0.1, fused=True)
        for _ in range(3):
            optimiser.zero_grad(set_to_none=True)
            layer(torch.ones(4, 3)).square().sum().backward()
            optimiser.step()
        assert optimiser.state_dict()["state"][0]["step"] == 3
        found.append(layer.weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])
