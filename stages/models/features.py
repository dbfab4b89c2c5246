"""What a network makes of images on its way: the last features at each resolution.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from stages.models.layers import in_eval_mode

Resolution = tuple[int, int]
"""Height and width of features [pixels]."""

_NUM_PROBES: Final = 3
"""Images by which a network is tried: a number that features have as their first size, and hardly anything else."""


class FeatureLayer(NamedTuple):
    """A module of a network, by its name there, whose output are features [B, num_channels, H, W]."""

    name: str
    num_channels: int


@torch.no_grad()
def last_features(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[Resolution, FeatureLayer]:
    """By resolution the module that is the last to end there, where it is called once.

    Features are whatever is a map of the image: a vector of floats for each of its pixels, or of coarser ones. Features
    of one pixel are left out, and so is the network's answer.
    """
    ended: list[tuple[str, Tensor]] = []
    device = next(chain(network.parameters(), network.buffers())).device
    inner = [name for name, _ in network.named_modules() if name]
    with in_eval_mode(network), _heard(network, inner, lambda name, out: ended.append((name, out))):
        answer = network(torch.zeros(_NUM_PROBES, *image_shape, device=device))
    called = [name for name, _ in ended]
    return {
        (out.shape[2], out.shape[3]): FeatureLayer(name, out.shape[1])
        for name, out in ended
        if out is not answer and called.count(name) == 1 and _are_features(out, image_shape)
    }


def _are_features(out: Tensor, image_shape: tuple[int, int, int]) -> bool:
    """Not so: kernels, windows of an image, masks, tensors with channels last, attention, maps of one pixel."""
    if out.ndim != 4 or len(out) != _NUM_PROBES or not out.is_floating_point():
        return False
    (_, height, width), (own_height, own_width) = image_shape, out.shape[2:]
    has_its_shape = abs(own_height * width - own_width * height) <= max(height, width)  # within a pixel
    return has_its_shape and own_height <= height and own_width <= width and own_height * own_width > 1


@contextmanager
def watched_features(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Within this context a pass through the network leaves the outputs of these modules, each by its name.

    They are copies: what comes next in the network may write over its input.
    """
    features: dict[str, Tensor] = {}
    with _heard(network, names, lambda name, out: features.update({name: out.clone()})):
        yield features


@contextmanager
def _heard(network: nn.Module, names: Iterable[str], hear: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Within this context `hear` is called with the name of each of these modules and the tensor that it returns."""

    def hook(name: str) -> Callable[..., None]:
        def see(_module: nn.Module, _inputs: object, out: object) -> None:
            if isinstance(out, Tensor):
                hear(name, out)

        return see

    handles = [network.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
