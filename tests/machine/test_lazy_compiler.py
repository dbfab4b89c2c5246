"""torch's compiler is not loaded for the sake of optimisers, and these compute what they always did."""

from __future__ import annotations

import pytest
from child_process import run_python

# Updates of a small network as both our optimisers make them, with a state round trip in the middle; twice: before the
# compiler is loaded, without torch's wrappers, and after, with them.
EQUAL = """
import copy, sys, torch
from torch.nn import functional as F

def train(kind, *, steps=60, **options):
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    net = torch.nn.Sequential(*layers)
    groups = [{"params": list(net[:2].parameters()), "lr": 0.05}, {"params": list(net[3].parameters())}]
    optimizer = kind(groups, lr=0.02, **options)
    images, labels = torch.rand(16, 3, 8, 8), torch.arange(16) % 5
    losses = []
    for step in range(steps):
        if step == steps // 2:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = kind(groups, lr=0.02, **options)
            optimizer.load_state_dict(saved)
        for group in optimizer.param_groups:
            group["lr"] *= 0.99
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in net.parameters())
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert losses[-1] < losses[0]
    state = optimizer.state_dict()
    values = [value for entry in state["state"].values() for value in entry.values()]
    tensors = [value.detach() for value in (*net.parameters(), *values) if isinstance(value, torch.Tensor)]
    return tensors, state["param_groups"], losses

CASES = (
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4}),
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}),
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4, "fused": True}),
    (torch.optim.Adam, {"betas": (0.5, 0.999)}),
    (torch.optim.Adam, {"betas": (0.5, 0.999), "fused": True}),
    (torch.optim.AdamW, {"weight_decay": 0.01}),
)

from stages.machine.lazy_compiler import keep_compiler_unloaded
keep_compiler_unloaded()
without = [train(kind, **options) for kind, options in CASES]
assert "torch._dynamo" not in sys.modules, "an optimiser has loaded the compiler"
import torch._dynamo
with_it = [train(kind, **options) for kind, options in CASES]
for (tensors, groups, losses), (others, other_groups, other_losses) in zip(without, with_it, strict=True):
    assert losses == other_losses
    assert groups == other_groups
    assert len(tensors) == len(others) > 6
    assert all(torch.equal(*pair) for pair in zip(tensors, others, strict=True))

# And what compiles an optimiser's step finds it as ever.
weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([weight], lr=0.5)
weight.grad = torch.ones(3)
torch.compile(optimizer.step, backend="eager")()
assert weight.tolist() == [0.5] * 3
print("equal")
"""

# Where the compiler is there already, and where torch's wrappers do something that is not known here.
LEFT_ALONE = """
import functools, sys, torch, types
from torch.optim import Optimizer
from stages.machine.lazy_compiler import keep_compiler_unloaded

def methods():
    return dict(vars(Optimizer)), dict(vars(torch.optim.SGD))

before = methods()
sys.modules["torch._dynamo"] = types.ModuleType("torch._dynamo")
keep_compiler_unloaded()
assert methods() == before
del sys.modules["torch._dynamo"]

def unknown(method):
    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        import torch._dynamo
        torch._dynamo.graph_break()
        return something_else(method)(*args, **kwargs)
    return wrapper

Optimizer.zero_grad = unknown(Optimizer.zero_grad.__wrapped__)
torch.optim.SGD.step = unknown(torch.optim.SGD.step.__wrapped__)
before = methods()
keep_compiler_unloaded()
changed = [name for old, new in zip(before, methods(), strict=True) for name in old if old[name] is not new[name]]
assert changed == ["state_dict", "load_state_dict", "add_param_group"], changed
before = methods()
keep_compiler_unloaded()
assert methods() == before
print("left alone")
"""


@pytest.mark.parametrize(("script", "word"), [(EQUAL, "equal"), (LEFT_ALONE, "left alone")])
def test_in_a_process_of_its_own(script: str, word: str) -> None:
    assert run_python("-c", script).out.strip() == word
