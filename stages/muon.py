"""Muon: SGD whose momenta are made orthogonal, for the weights that are matrices (Jordan et al., 2024).

The momentum of a convolution's or hidden linear layer's weight, seen as a matrix of outputs by inputs, has a few large
singular values and many small ones; a step along it moves the weight in few directions. Muon takes the nearest matrix
whose singular values are about 1 instead: all directions move alike. Everything else - batch-norm, biases, the last
layer - is left to SGD.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

MATRIX_RATE: Final = 0.2
"""How far a matrix moves, for a learning rate of 1: its step has singular values of about this size."""

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Of the quintic whose repeated application takes singular values in (0, 1] to about 1 (Jordan et al.)."""

_NUM_ITERATIONS: Final = 5
_LEAST_ROWS: Final = 64
"""With fewer rows or columns, turning to bf16 takes more time than its products save (measured on a CPU with AMX)."""
_SMALLEST_NORM: Final = 1e-7


class Muon(torch.optim.Optimizer):
    """Not `torch.optim.Muon`, which takes 2-D parameters only and cannot leave out an update on the device.

    Two groups of parameters, `matrices` and others, with Nesterov's momentum for the former.

    A step never waits for the device and keeps no number on the host, so it can be recorded. Where `found_inf`, a
    scalar on the device, is not zero, a step leaves weights and momenta as they are.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float | Tensor,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype,
        fused: bool,
    ) -> None:
        """`dtype` is what large momenta are made orthogonal in; `fused` says that `found_inf` is looked at."""
        groups = [
            {"params": list(matrices), "is_orthogonal": True},
            {"params": list(others), "is_orthogonal": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "fused": fused}
        super().__init__(groups, defaults)
        self.found_inf: Tensor | None = None
        self._dtype = dtype
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update by the gradients there are."""
        assert closure is None
        for group in self.param_groups:
            parameters: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step_group(group, parameters)

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        momentum, weight_decay = group["momentum"], group["weight_decay"]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers: list[Tensor] = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        new_buffers = list(torch._foreach_mul(buffers, momentum))
        if group["is_orthogonal"]:  # weight decay goes past the momentum, whose size is not kept
            torch._foreach_add_(new_buffers, gradients)
            ahead = torch._foreach_add(gradients, new_buffers, alpha=momentum)
            moves = _orthogonalized(ahead, self._dtype)
            torch._foreach_mul_(moves, MATRIX_RATE)
            torch._foreach_add_(moves, parameters, alpha=weight_decay)
            torch._foreach_mul_(moves, group["lr"])
        else:
            torch._foreach_add_(new_buffers, torch._foreach_add(gradients, parameters, alpha=weight_decay))
            moves = list(torch._foreach_mul(new_buffers, group["lr"]))
        if self.found_inf is not None:
            is_wanted, nothing = self.found_inf == 0, torch.zeros_like(self.found_inf)
            moves = [torch.where(is_wanted, move, nothing) for move in moves]
            new_buffers = [torch.where(is_wanted, new, old) for new, old in zip(new_buffers, buffers, strict=True)]
        torch._foreach_sub_(parameters, moves)
        torch._foreach_copy_(buffers, new_buffers)


def matrices_and_others(model: nn.Module, *, num_classes: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A network's weights that Muon makes orthogonal steps for, and the rest.

    Matrices are the weights of linear layers and of convolutions whose outputs see all inputs, but for the last one
    with an output for each class.
    """
    found = [module.weight for module in model.modules() if _is_dense(module)]
    weights = [weight for weight in found if isinstance(weight, nn.Parameter)]  # not what is made of other parameters
    of_classes = [weight for weight in weights if weight.shape[0] == num_classes][-1:]
    chosen = {id(weight) for weight in weights} - {id(weight) for weight in of_classes}
    matrices = [parameter for parameter in model.parameters() if id(parameter) in chosen]
    return matrices, [parameter for parameter in model.parameters() if id(parameter) not in chosen]


def _is_dense(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.groups == 1
    return isinstance(module, nn.Linear)


def _orthogonalized(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Each tensor [outputs, inputs, ...] as the nearest matrix with singular values about 1; equal shapes together."""
    results: dict[int, Tensor] = {}
    shapes = {tensor.shape for tensor in tensors}
    for shape in sorted(shapes):
        indices = [index for index, tensor in enumerate(tensors) if tensor.shape == shape]
        stacked = torch.stack([tensors[index].flatten(1) for index in indices])
        is_small = min(stacked.shape[1:]) < _LEAST_ROWS
        for index, matrix in zip(indices, newton_schulz(stacked, torch.float32 if is_small else dtype), strict=True):
            # In memory as the weight itself, or the operations on whole lists go through them one by one.
            results[index] = torch.empty_like(tensors[index]).copy_(matrix.view(shape))
    return [results[index] for index in range(len(tensors))]


def newton_schulz(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """U S V^T of each of the matrices [N, rows, columns] turned to about U V^T.

    Singular values end between .7 and 1.2, but for those that are tiny beside the largest. Computed in `dtype`, by
    products of matrices alone.
    """
    a, b, c = _COEFFICIENTS
    norms = matrices.float().norm(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_NORM)
    x: Tensor = (matrices / norms).to(dtype)
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
