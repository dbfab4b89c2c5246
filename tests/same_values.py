"""Whether two values are the same to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def assert_same(one: Any, other: Any, place: str = "value") -> None:
    """Equal to the bit, in whatever mappings, lists and tuples the tensors lie."""
    if isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=lambda difference: f"{place}: {difference}")
        return
    if isinstance(one, Mapping):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}/{key}")
        return
    assert type(one) is type(other), place
    if isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for index, (item, other_item) in enumerate(zip(one, other, strict=True)):
            assert_same(item, other_item, f"{place}/{index}")
    else:
        assert one == other, place
