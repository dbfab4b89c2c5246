"""Batch-norm of a frozen network on the way of a gradient to the network's input.

In eval mode batch-norm is one factor and one offset per channel, and the gradient of its input is the factor times that
of its output. On a CPU torch's backward pass also reduces over batch and pixels for gradients of weights that nobody
asked for, which costs more than all else in it. On a GPU it does not, but by its source it lays the gradient out with
channels first, whatever the input's layout, which the convolution before has to turn around again.

Legend: B batch, C channels, ... pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.models.layers import bn_layers, scaled_channels

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _FrozenBatchNorm(torch.autograd.Function):
    """Batch-norm with fixed statistics and weights, differentiable once and in its input only."""

    @staticmethod
    def forward(
        ctx: Any, x_BC: Tensor, mean_C: Tensor, variance_C: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(variance_C, weight_C)
        ctx.eps = eps
        return F.batch_norm(x_BC, mean_C, variance_C, weight_C, bias_C, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient_BC: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        variance_C, weight_C = ctx.saved_tensors
        zeros_C = torch.zeros_like(weight_C)
        factor_C = weight_C * torch.rsqrt(variance_C + ctx.eps)
        return scaled_channels(gradient_BC, factor_C, mean_C=zeros_C, offset_C=zeros_C), None, None, None, None, None


def _forward(layer: nn.BatchNorm2d, input: Tensor) -> Tensor:
    # What the layer is does not change in the context; the network may be a stranger's and set it to training itself.
    if layer.training:
        return type(layer).forward(layer, input)
    frozen: Tensor = _FrozenBatchNorm.apply(
        input, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.eps
    )
    return frozen


def _can_be_frozen(layer: nn.Module) -> bool:
    return isinstance(layer, _KINDS) and type(layer) in _KINDS and layer.affine


@contextmanager
def frozen_batch_norm(*networks: nn.Module) -> Iterator[None]:
    """Within this context the batch-norm layers of networks in eval mode send gradients to their input only.

    What they compute is the same; gradients are, too, but for rounding; on a CPU in bf16 to the bit. Layers of other
    classes than torch's own and those without weights or running statistics stay as they are.
    """
    layers = [layer for network in networks for layer in bn_layers(network) if _can_be_frozen(layer)]
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign, arg-type]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
