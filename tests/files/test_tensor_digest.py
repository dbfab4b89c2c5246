"""What the digest of tensors tells apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.files.tensor_digest import digest

ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    "others",
    [
        {"w": ONES.clone().fill_(2.0)},
        {"v": ONES},
        {"w": ONES.reshape(3, 2)},
        {"w": ONES.view(torch.int32)},
        {"w": ONES, "": torch.ones(0)},
    ],
    ids=["values", "name", "shape", "type", "an empty one"],
)
def test_what_differs_has_another_digest(others: dict[str, Tensor]) -> None:
    assert digest(others) != digest({"w": ONES})


def test_equal_tensors_have_one_digest_however_they_lie() -> None:
    images = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    turned = {"b": ONES, "a": images.to(memory_format=torch.channels_last)}
    assert digest(turned) == digest({"a": images, "b": ONES.t().contiguous().t()})
    assert digest(turned, text="other") != digest(turned)
