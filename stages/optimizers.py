"""The optimisers of a run: on a CUDA device one kernel for all weights, and nothing of a step decided by the host.

A fused optimiser counts its steps on the device, and passes one over where a value on the device says so. Its steps
can therefore be recorded (`stages.machine.recorded_step`). On a CPU the choice of implementation is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stages.muon import Muon, matrices_and_others

_IMPLEMENTATION = ("fused", "foreach", "capturable")
"""Settings of an optimiser that say how it computes, not what."""


def is_fused(device: torch.device) -> bool:
    """Whether optimisers on the device are fused."""
    return device.type == "cuda"


def adam(groups: list[dict[str, Any]], *, betas: tuple[float, float], device: torch.device) -> torch.optim.Adam:
    """Adam for groups of parameters, each with its `lr`."""
    if is_fused(device):
        return torch.optim.Adam(groups, betas=betas, fused=True, capturable=True)
    return torch.optim.Adam(groups, betas=betas)


def sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    device: torch.device,
) -> torch.optim.SGD:
    """SGD with momentum. Fused, it reads its learning rate on the device: see `set_learning_rate`."""
    how: dict[str, Any] = {"momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    if not is_fused(device):
        return torch.optim.SGD(parameters, lr=lr, **how)
    optimizer = torch.optim.SGD(parameters, lr=torch.tensor(lr, device=device), **how, fused=True)
    if momentum > 0:
        # Else it is the host that knows a first step, and where that is passed over the momenta are never set.
        for parameter in optimizer.param_groups[0]["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def of_student(
    kind: str,
    model: nn.Module,
    *,
    num_classes: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    precision: str,
    device: torch.device,
) -> torch.optim.Optimizer:
    """The optimiser that `distillation.optimizer` names: SGD, or Muon for matrices and SGD for the rest."""
    if kind == "sgd":
        return sgd(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, device=device)
    matrices, others = matrices_and_others(model, num_classes=num_classes)
    return Muon(
        matrices,
        others,
        lr=torch.tensor(lr, device=device) if is_fused(device) else lr,
        momentum=momentum,
        weight_decay=weight_decay,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        fused=is_fused(device),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the steps from now on, recorded ones too."""
    for group in optimizer.param_groups:
        group["lr"] = _with_value(group["lr"], lr)


def _with_value(rate: float | Tensor, lr: float) -> float | Tensor:
    """The rate's tensor with another value, or the value where the rate is a number."""
    return rate.fill_(lr) if isinstance(rate, Tensor) else lr


def step_if(optimizer: torch.optim.Optimizer, is_wanted: Tensor) -> None:
    """One step, or none at all: weights and the optimiser's state stay where `is_wanted`, a scalar bool, is false.

    A fused optimiser looks on the device, and the host does not wait.
    """
    if optimizer.defaults["fused"]:
        optimizer.found_inf = is_wanted.logical_not().float()  # type: ignore[attr-defined]  # as a gradient scaler does
        optimizer.step()
    elif is_wanted:
        optimizer.step()


def reset(optimizer: torch.optim.Adam) -> None:
    """Make Adam's state that of a new one, in the same tensors."""
    state = [value for values in optimizer.state.values() for value in values.values()]
    if state:
        torch._foreach_zero_(state)


def load(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from `optimizer.state_dict()`, which may be that of another device's implementation."""
    own = optimizer.state_dict()
    groups = [
        saved | {name: value for name, value in group.items() if name in _IMPLEMENTATION}
        for group, saved in zip(own["param_groups"], state["param_groups"], strict=True)
    ]
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict({"state": own["state"] | state["state"], "param_groups": groups})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = _with_value(rate, float(group["lr"]))
    _match_memory_format(optimizer)


def _match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Give the loaded state of an optimiser the strides of its parameters, as it would have had undisturbed."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
