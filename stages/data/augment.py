"""Random shift and mirror, one draw per image, on the device the images are on.

Legend: B batch, C channels, H W pixels.

What torchvision calls `RandomCrop(size, padding)` followed by `RandomHorizontalFlip`: an image padded with
zeros and cropped at a random place is the image shifted by at most `padding` pixels, with zeros where
nothing came in. Unlike torchvision's transforms on a batch, every image gets a draw of its own.

The shift is a gather of whole pixels from the channels-last image: it copies uint8 and floats bit for bit,
needs no synchronisation with the device, and its adjoint is the opposite shift, so gradients flow through
it exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Augmentation(NamedTuple):
    """A draw for each of B images: out[y, x] = image[y + shift_y, x' + shift_x], x' = W-1-x where flipped."""

    shift_y_B: Tensor
    """int64 [B], pixels."""

    shift_x_B: Tensor
    """int64 [B], pixels."""

    flip_B: Tensor
    """bool [B]."""


def draw_augmentation(
    batch: int, *, padding: int, flip: bool, rng: torch.Generator, device: torch.device | str
) -> Augmentation:
    """Shifts uniform on [-padding, padding] in each direction; mirrored with probability 1/2 where `flip`.

    The numbers are drawn where `rng` lives and moved to `device`, so that a CPU generator gives the same
    draws on every device.
    """
    shift_B2 = torch.randint(-padding, padding + 1, (batch, 2), generator=rng, device=rng.device)
    flip_B = torch.zeros(batch, dtype=torch.bool, device=rng.device)
    if flip:
        flip_B = torch.rand(batch, generator=rng, device=rng.device) < 0.5
    shift_2B = shift_B2.T.to(device, non_blocking=True)
    return Augmentation(shift_2B[0], shift_2B[1], flip_B.to(device, non_blocking=True))


def augmented(images_BCHW: Tensor, augmentation: Augmentation) -> Tensor:
    """The images shifted and mirrored, each by its own draw, zeros coming in at the borders.

    Shapes: [B, C, H, W] of any type -> the same shape, type and memory format. Differentiable to any order.
    """
    shifted: Tensor = _Shift.apply(images_BCHW, augmentation.shift_y_B, augmentation.shift_x_B, augmentation.flip_B)
    return shifted


def moved_with(augmentation: Augmentation, label_B: Tensor) -> Tensor:
    """The labels of augmented images: one a pixel [B, H, W] goes where its pixel goes, one an image [B] stays.

    Pixels that come in at the borders have the label -1, which no loss counts.
    """
    if label_B.ndim < 3:
        return label_B
    return augmented(label_B.unsqueeze(1) + 1, augmentation).squeeze(1) - 1


class _Shift(torch.autograd.Function):
    """A linear map that copies pixels; its adjoint copies them back."""

    @staticmethod
    def forward(ctx: Any, images_BCHW: Tensor, shift_y_B: Tensor, shift_x_B: Tensor, flip_B: Tensor) -> Tensor:
        ctx.save_for_backward(shift_y_B, shift_x_B, flip_B)
        return _gather_pixels(images_BCHW, shift_y_B, shift_x_B, flip_B)

    @staticmethod
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor, None, None, None]:
        shift_y_B, shift_x_B, flip_B = ctx.saved_tensors
        # out[x] = in[W-1-x + s] is its own adjoint in x: the gradient of in[u] is that of out[W-1-u + s].
        opposite = Augmentation(-shift_y_B, torch.where(flip_B, shift_x_B, -shift_x_B), flip_B)
        return augmented(gradient_BCHW, opposite), None, None, None


def _gather_pixels(images_BCHW: Tensor, shift_y_B: Tensor, shift_x_B: Tensor, flip_B: Tensor) -> Tensor:
    batch, channels, height, width = images_BCHW.shape
    device = images_BCHW.device
    y_H = torch.arange(height, device=device)
    x_W = torch.arange(width, device=device)
    x_BW = torch.where(flip_B[:, None], width - 1 - x_W, x_W) + shift_x_B[:, None]
    y_BH = y_H + shift_y_B[:, None]

    # A border of one zero pixel serves any shift: every coordinate outside the image is clamped onto it.
    padded_BHWC = F.pad(images_BCHW.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    row_BH = (torch.arange(batch, device=device) * (height + 2))[:, None] + y_BH.clamp(-1, height) + 1
    pixel_BHW = (row_BH * (width + 2))[:, :, None] + (x_BW.clamp(-1, width) + 1)[:, None, :]
    gathered = padded_BHWC.reshape(-1, channels).index_select(0, pixel_BHW.flatten())
    shifted_BCHW = gathered.view(batch, height, width, channels).permute(0, 3, 1, 2)
    if images_BCHW.is_contiguous(memory_format=torch.channels_last):
        return shifted_BCHW
    return shifted_BCHW.contiguous()
