"""A small network's first weights out of a large one: weight selection (Xu et al., ICLR 2024).

Of networks of one family, layers that bear the same name are matched; where the large network has more layers or blocks
of a kind in a row, some are taken, from the first to the last. Networks of two families share few names: there layers
of one kind are matched by how deep they lie. Of wider tensors evenly spaced channels are taken, the same ones wherever
two widths meet, so that what one layer writes the next one reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

NUM_CHANNEL_DIMENSIONS = 2
"""Output and input channels; the others are those of kernels, and must be equal."""

MOST = 0.5
"""Share of a network's weights from which on they can be called another network's."""


class Inheritance(NamedTuple):
    """Shares of a network's parameters: those that come from another network, and those that are whole layers of it, as
    they were and in their places."""

    share: float
    whole: float


NOTHING = Inheritance(0.0, 0.0)
"""What two networks without anything in common leave to each other."""


class _Layer(NamedTuple):
    """A layer with tensors of its own, and how deep it lies among those of its kind, from 0 to 1."""

    depth: float
    tensors: dict[str, Tensor]


@torch.no_grad()
def select_weights(small: nn.Module, large: nn.Module) -> Inheritance:
    """Overwrite what of `small` has a counterpart in `large`: parameters and batch-norm statistics."""
    by_name = _take(small, _counterparts_by_name(small, large))
    if by_name.share >= MOST:
        return by_name
    by_depth = _take(small, _counterparts_by_depth(small, large))
    # Layers of another family compute something else where they lie now.
    return Inheritance(max(by_name.share, by_depth.share), by_name.whole if by_depth.share == 0 else 0.0)


def _take(small: nn.Module, counterparts: Iterable[tuple[Tensor, Tensor]]) -> Inheritance:
    num_taken = num_whole = 0
    for own, other in counterparts:
        if _can_select(own, other):
            own.copy_(_selected(other, own.shape))
            num_values = own.numel() if isinstance(own, nn.Parameter) else 0
            num_taken += num_values
            num_whole += num_values if own.shape == other.shape else 0
    num_own = max(1, sum(parameter.numel() for parameter in small.parameters()))
    return Inheritance(num_taken / num_own, num_whole / num_own)


def _counterparts_by_name(small: nn.Module, large: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors of the same name, module by module."""
    yield from _of_same_name(_tensors(small), _tensors(large))
    if isinstance(small, nn.Sequential | nn.ModuleList) and isinstance(large, nn.Sequential | nn.ModuleList):
        for kind in {_kind(child) for child in small}:
            yield from _spread([x for x in small if _kind(x) == kind], [x for x in large if _kind(x) == kind])
    else:
        others = dict(large.named_children())
        for name, child in small.named_children():
            if name in others:
                yield from _counterparts_by_name(child, others[name])


def _kind(layer: nn.Module) -> tuple[str, str]:
    """What a layer's class is called: a file that is run twice makes its classes twice."""
    return type(layer).__module__, type(layer).__qualname__


def _spread(few: list[nn.Module], many: list[nn.Module]) -> Iterator[tuple[Tensor, Tensor]]:
    """Layers or blocks of one kind: the first with the first, the last with the last, others evenly between."""
    for index, child in enumerate(few):
        if many:
            yield from _counterparts_by_name(child, many[round(index * (len(many) - 1) / max(1, len(few) - 1))])


def _counterparts_by_depth(small: nn.Module, large: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """For each layer, the tensors of the layer that fits it and lies nearest to its depth; one may serve several."""
    theirs = _layers_by_kind(large)
    for kind, layers in _layers_by_kind(small).items():
        for own in layers:
            fitting = [other for other in theirs.get(kind, []) if _fits(own.tensors, other.tensors)]
            if fitting:
                nearest = min(fitting, key=lambda other: abs(other.depth - own.depth))
                yield from _of_same_name(own.tensors, nearest.tensors)


def _layers_by_kind(network: nn.Module) -> dict[tuple[object, ...], list[_Layer]]:
    """Layers with tensors of their own: by class, kernel and whether channels are in groups, in the network's order."""
    found: dict[tuple[object, ...], list[dict[str, Tensor]]] = defaultdict(list)
    for layer in network.modules():
        tensors = _tensors(layer)
        if tensors:
            kernel = max((tensor.shape[NUM_CHANNEL_DIMENSIONS:] for tensor in tensors.values()), key=len)
            found[(*_kind(layer), kernel, getattr(layer, "groups", 1) > 1)].append(tensors)
    return {
        kind: [_Layer(index / max(1, len(layers) - 1), tensors) for index, tensors in enumerate(layers)]
        for kind, layers in found.items()
    }


def _fits(own: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    pairs = list(_of_same_name(own, other))
    return bool(pairs) and all(_can_select(mine, theirs) for mine, theirs in pairs)


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's own parameters and statistics, without those of layers in it."""
    named = chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def _of_same_name(own: dict[str, Tensor], others: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((tensor, others[name]) for name, tensor in own.items() if name in others)


def _can_select(own: Tensor, other: Tensor) -> bool:
    channels, kernel = slice(NUM_CHANNEL_DIMENSIONS), slice(NUM_CHANNEL_DIMENSIONS, None)
    return (
        own.ndim == other.ndim
        and own.shape[kernel] == other.shape[kernel]
        and all(few <= many for few, many in zip(own.shape[channels], other.shape[channels], strict=True))
    )


def _selected(large: Tensor, shape: torch.Size) -> Tensor:
    for dimension, (few, many) in enumerate(zip(shape, large.shape, strict=True)):
        large = large.index_select(dimension, torch.arange(few, device=large.device) * many // few)
    return large
