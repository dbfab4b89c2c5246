"""Two images in one: CutMix (Yun et al., ICCV 2019) and mixup (Zhang et al., ICLR 2018), a draw per image.

Labels are not mixed: in distillation the teacher looks at the mixed image and says what it sees.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Mixing(NamedTuple):
    """How each of B images is mixed with another one; a few numbers, from which `mix` makes the same pixels again."""

    other_B: Tensor
    """float32 [B] in [0, 1/2]: the other image's share, at most; 0 where an image stays as it is."""

    y_B: Tensor
    """float32 [B] in [0, 1): the height at which CutMix's rectangle lies, between top and bottom."""

    x_B: Tensor
    """float32 [B] in [0, 1): its place between left and right."""


def draw_mixing(batch: int, *, share: float, rng: torch.Generator) -> Mixing:
    """Each image is mixed with probability `share`; of a mixed one at least half is its own, uniform on [1/2, 1].

    Differs from the papers, whose lambda may favour either image: here one is always the drawn image, to which
    priorities belong.
    """
    is_mixed_B, other_B, y_B, x_B = torch.rand(4, batch, generator=rng, device=rng.device)
    return Mixing(torch.where(is_mixed_B < share, other_B / 2, 0.0), y_B, x_B)


def mix(kind: str, images_BCHW: Tensor, others_BCHW: Tensor, mixing: Mixing) -> Tensor:
    """Each image mixed with the other one at its place: a weighted mean ("mixup"), or a rectangle of it ("cutmix").

    The rectangle has the image's proportions, as far as edges on whole pixels allow, and lies inside it.
    Shapes: uint8 [B, C, H, W] -> the same, rounded to nearest, in the same memory format.
    """
    if kind == "mixup":
        own_B111 = 1 - mixing.other_B[:, None, None, None]
        return torch.lerp(others_BCHW.float(), images_BCHW.float(), own_B111).round().to(torch.uint8)
    height, width = images_BCHW.shape[2:]
    side_B = mixing.other_B.sqrt()
    rows_B, columns_B = (side_B * height).round(), (side_B * width).round()
    columns_B = columns_B.minimum(height * width // 2 // rows_B.clamp(min=1))  # half of the image stays its own
    is_other_BH = _is_inside(height, rows_B, mixing.y_B)
    is_other_BW = _is_inside(width, columns_B, mixing.x_B)
    is_other_B1HW = (is_other_BH[:, None, :, None] & is_other_BW[:, None, None, :]).byte()
    # Bytes wrap, so this is exact; a choice by a mask that all channels share takes a CPU more than twice as long.
    return images_BCHW + is_other_B1HW * (others_BCHW - images_BCHW)


def _is_inside(size: int, length_B: Tensor, place_B: Tensor) -> Tensor:
    """Which of `size` pixels in a row lie in an interval of so many, [B, size]; `place_B` in [0, 1) puts it."""
    first_B = (place_B * (size - length_B + 1)).floor()
    pixel = torch.arange(size, device=length_B.device)
    return (pixel >= first_B[:, None]) & (pixel < (first_B + length_B)[:, None])
