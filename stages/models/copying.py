"""Copies of networks, whatever a forward pass has left in them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def copied(network: ModuleT) -> ModuleT:
    """A deep copy, in which features that a forward pass has left (`self.last = features`) have no graph.

    Torch refuses to copy a tensor that has one, and many networks keep some, to be looked at or for `weight_norm`.
    """
    left = (tensor for module in network.modules() for tensor in _tensors(vars(module)) if not tensor.is_leaf)
    return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in left})


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in containers of containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _tensors(inner)
