"""A small network's first weights out of a large one of its family: weight selection (Xu et al., ICLR 2024).

Layers that bear the same name in both are matched; where the large network has more layers or blocks of a kind in a
row, some are taken, from the first to the last. Of wider tensors evenly spaced channels are taken, the same ones
wherever two widths meet, so that what one layer writes the next one reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

NUM_CHANNEL_DIMENSIONS = 2
"""Output and input channels; the others are those of kernels, and must be equal."""


class Inheritance(NamedTuple):
    """Shares of a network's parameters: those that come from another network, and those in tensors taken whole."""

    share: float
    whole: float


NOTHING = Inheritance(0.0, 0.0)
"""What two networks without anything in common leave to each other."""


@torch.no_grad()
def select_weights(small: nn.Module, large: nn.Module) -> Inheritance:
    """Overwrite what of `small` has a counterpart in `large`: parameters and batch-norm statistics."""
    num_taken = num_whole = 0
    for own, other in _counterparts(small, large):
        if _can_select(own, other):
            own.copy_(_selected(other, own.shape))
            num_values = own.numel() if isinstance(own, nn.Parameter) else 0
            num_taken += num_values
            num_whole += num_values if own.shape == other.shape else 0
    num_own = max(1, sum(parameter.numel() for parameter in small.parameters()))
    return Inheritance(num_taken / num_own, num_whole / num_own)


def _counterparts(small: nn.Module, large: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Tensors of the same name, module by module."""
    theirs = dict(chain(large.named_parameters(recurse=False), large.named_buffers(recurse=False)))
    for name, own in chain(small.named_parameters(recurse=False), small.named_buffers(recurse=False)):
        if name in theirs:
            yield own, theirs[name]
    if isinstance(small, nn.Sequential | nn.ModuleList) and isinstance(large, nn.Sequential | nn.ModuleList):
        for kind in {_kind(child) for child in small}:
            yield from _spread([x for x in small if _kind(x) == kind], [x for x in large if _kind(x) == kind])
    else:
        others = dict(large.named_children())
        for name, child in small.named_children():
            if name in others:
                yield from _counterparts(child, others[name])


def _kind(layer: nn.Module) -> tuple[str, str]:
    """What a layer's class is called: a file that is run twice makes its classes twice."""
    return type(layer).__module__, type(layer).__qualname__


def _spread(few: list[nn.Module], many: list[nn.Module]) -> Iterator[tuple[Tensor, Tensor]]:
    """Layers or blocks of one kind: the first with the first, the last with the last, others evenly between."""
    for index, child in enumerate(few):
        if many:
            yield from _counterparts(child, many[round(index * (len(many) - 1) / max(1, len(few) - 1))])


def _can_select(own: Tensor, other: Tensor) -> bool:
    channels, kernel = slice(NUM_CHANNEL_DIMENSIONS), slice(NUM_CHANNEL_DIMENSIONS, None)
    return (
        own.is_floating_point()
        and own.ndim == other.ndim
        and own.shape[kernel] == other.shape[kernel]
        and all(few <= many for few, many in zip(own.shape[channels], other.shape[channels], strict=True))
    )


def _selected(large: Tensor, shape: torch.Size) -> Tensor:
    for dimension, (few, many) in enumerate(zip(shape, large.shape, strict=True)):
        large = large.index_select(dimension, torch.arange(few, device=large.device) * many // few)
    return large
