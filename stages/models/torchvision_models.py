"""The classifiers of torchvision, by the names they have there, without weights: these come from a file."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torchvision
from torch import nn

from stages.errors import ConfigError
from stages.models.weights import PARTS_LEFT_OUT

NUM_COLOUR_CHANNELS = 3

# Their auxiliary heads would return a tuple while training.
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""How the names of their weights begin, in files of networks that have them."""


def torchvision_model(*, name: str, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Build `torchvision:{name}`: [B, in_channels, H, W] -> [B, num_classes].

    Where in_channels is not 3, the first convolution is replaced by one that takes as many. Raises
    ConfigError for an unknown name.
    """
    del image_size  # most take any size; the others say so on the first image
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean `torchvision:{near[0]}`?" if near else f"known there: {', '.join(known)}"
        raise ConfigError(f"torchvision has no classifier `{name}`", hint=hint)
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=num_classes, **OPTIONS.get(name, {})
    )
    setattr(model, PARTS_LEFT_OUT, AUXILIARY_HEADS.get(name, ()))
    if in_channels != NUM_COLOUR_CHANNELS:
        _replace_first_convolution(model, in_channels)
    return model


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    path, first = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, attribute = path.rpartition(".")
    replacement = nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    setattr(model.get_submodule(parent), attribute, replacement)
