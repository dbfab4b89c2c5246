"""Two images in one: CutMix (Yun et al., ICCV 2019) and mixup (Zhang et al., ICLR 2018), a draw per image.

Labels are not mixed: in distillation the teacher looks at the mixed image and says what it sees.

Legend: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """A draw for each of B images: out = own * image + (1 - own) * image of its partner, pixel by pixel."""

    partner_B: Tensor
    """int64 [B], a permutation of the batch."""

    own_B1HW: Tensor
    """float32 [B, 1, H, W] in [0, 1]: the image's own share of each pixel; 0 or 1 in CutMix."""


def draw_mixing(
    kind: str, batch: int, *, share: float, height: int, width: int, rng: torch.Generator, device: torch.device
) -> Mixing:
    """Each image is mixed with probability `share`; of a mixed one at least half is its own, uniform on [1/2, 1].

    CutMix pastes a rectangle with the image's proportions, its place uniform inside the image. Differs from the papers,
    whose lambda may favour either image: here one is always the drawn image, to which priorities belong.
    """
    partner_B = torch.randperm(batch, generator=rng, device=rng.device)
    is_mixed_B, other_B, y_B, x_B = torch.rand(4, batch, generator=rng, device=rng.device)
    other_B = torch.where(is_mixed_B < share, other_B / 2, 0.0)
    if kind == "mixup":
        own_B1HW = (1 - other_B).view(-1, 1, 1, 1).expand(-1, 1, height, width)
    else:
        is_other_BH = _is_inside(height, other_B.sqrt() * height, y_B)
        is_other_BW = _is_inside(width, other_B.sqrt() * width, x_B)
        own_B1HW = 1 - (is_other_BH[:, None, :, None] & is_other_BW[:, None, None, :]).float()
    return Mixing(partner_B.to(device, non_blocking=True), own_B1HW.to(device, non_blocking=True))


def _is_inside(size: int, length_B: Tensor, place_B: Tensor) -> Tensor:
    """Which of `size` pixels in a row lie in an interval of whole pixels, [B, size]; `place_B` in [0, 1) puts it."""
    length_B = length_B.round()
    first_B = (place_B * (size - length_B + 1)).floor()
    pixel = torch.arange(size, device=length_B.device)
    return (pixel >= first_B[:, None]) & (pixel < (first_B + length_B)[:, None])


def mix(images_BCHW: Tensor, mixing: Mixing) -> Tensor:
    """The mixed images. Shapes: uint8 [B, C, H, W] -> the same, rounded to nearest, in the same memory format."""
    own_BCHW = images_BCHW.float()
    mixed_BCHW = torch.lerp(own_BCHW[mixing.partner_B], own_BCHW, mixing.own_B1HW)
    return mixed_BCHW.round().to(torch.uint8)
