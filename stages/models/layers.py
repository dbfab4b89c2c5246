"""What any network has: tensors, a mode, batch-norms (what goes into them, when they learn), a last linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def num_parameters(module: nn.Module) -> int:
    """Weights of a network, its statistics not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameters_and_buffers(module: nn.Module) -> list[Tensor]:
    """Weights and statistics of a network, each once."""
    return [*module.parameters(), *module.buffers()]


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The network in eval mode; afterwards each of its modules as it was, for they need not all be in one mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])  # a network of others' may do something there
        for module, is_training in modes:
            module.training = is_training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in eval mode and without gradients for its weights; as it was afterwards.

    Gradients still flow through the network to its input.
    """
    required = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        with in_eval_mode(model):
            yield
    finally:
        for parameter, requires_grad in zip(model.parameters(), required, strict=True):
            parameter.requires_grad_(requires_grad)


def bn_layers(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers with running statistics, in the model's order; L_BN (Eq. 1) sums over those that run."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


@contextmanager
def watched(layers: Iterable[_BatchNorm], look: Callable[[_BatchNorm, Tensor], None]) -> Iterator[None]:
    """Within this context `look` is called with the input of each of the layers, [B, C, ...], before it runs."""

    def see(layer: Any, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        look(layer, inputs[0] if inputs else named["input"])

    handles = [layer.register_forward_pre_hook(see, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def bn_layers_that_run(model: nn.Module, image_shape: tuple[int, int, int]) -> list[_BatchNorm]:
    """Of `bn_layers` those that a network calls in eval mode, as often as it does: not heads for training, nor what it
    only reads."""
    ran: list[_BatchNorm] = []
    device = next(chain(model.parameters(), model.buffers())).device
    with in_eval_mode(model), watched(bn_layers(model), lambda layer, _: ran.append(layer)):
        model(torch.zeros(1, *image_shape, device=device))
    return ran


@contextmanager
def statistics_taken_anew(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Within this context batch-norm layers learn their statistics from nothing: the mean over batches, all alike."""
    before = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        yield
    finally:
        for layer, (momentum, is_training) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.train(is_training)


def scaled_channels(features_BC: Tensor, factor_C: Tensor, *, mean_C: Tensor, offset_C: Tensor) -> Tensor:
    """factor * (features - mean) + offset, channel by channel. Shapes: [B, C, ...], [C] -> [B, C, ...].

    Batch-norm in eval mode is such a map, and its kernel keeps the factors in fp32 beside bf16 features. The operator
    is called, for some versions of torch's function refuse an eps of 0.
    """
    ones_C = torch.ones_like(mean_C)
    return torch.batch_norm(
        features_BC, factor_C, offset_C, mean_C, ones_C, False, 0.0, 0.0, torch.backends.cudnn.enabled
    )


def classifying_layer(model: nn.Module, *, num_classes: int) -> nn.Linear | None:
    """The last linear layer with an output for each class; None where the model has none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return next((layer for layer in reversed(layers) if layer.out_features == num_classes), None)
