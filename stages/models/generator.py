"""The generator whose images are inverted from the teacher (Fast-Datafree's, a small DCGAN).

    linear Z -> 128 x H/4 x W/4, BN | x2, conv, BN, LeakyReLU | x2, conv, BN, LeakyReLU | conv, sigmoid

Images of more than 64 pixels take more of its first doublings: with two, the linear layer alone has 103 million weights
at 224. It is trained for a few steps an epoch and always runs in train mode: batch statistics are part of its images.

Legend: B batch, Z latent, C channels, H W pixels, O output channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import ConfigError

BASE_CHANNELS = 64
MIN_DOUBLINGS = 2
LARGEST_FIRST_SIDE = 16
LEAKY_SLOPE = 0.2
RESET_STD = 0.02


class DoublingConv2d(nn.Conv2d):
    """Each pixel doubled in both directions, then a 3x3 convolution: [B, C, H, W] -> [B, O, 2H, 2W].

    As one transposed convolution with stride 2 it costs 4/9 of the multiplications: the two copies of a pixel meet
    sums of the kernel's weights, which are taken once and not at every pixel.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What `Upsample(scale_factor=2)` and then this convolution would give, but for rounding."""
        kernel_CO33 = self.weight.flip(2, 3).transpose(0, 1)
        copies = [F.pad(kernel_CO33, (left, 1 - left, top, 1 - top)) for left in (0, 1) for top in (0, 1)]
        kernel_CO44 = torch.stack(copies).sum(dim=0)
        if self.weight.is_contiguous(memory_format=torch.channels_last):
            kernel_CO44 = kernel_CO44.contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(x, kernel_CO44, stride=2, padding=1)


class Generator(nn.Module):
    """Latents [B, Z] -> images [B, C, H, W] in [0, 1], of the latents' dtype.

    Two doublings, and as many more as keep the first map at 16 x 16 or smaller and above one pixel. Sides that 4 (8,
    16, ...) does not divide: the first map is ceil(H/4) x ceil(W/4) and the output is cropped. No side of it is below
    2, for batch-norm takes no statistics of one value, which the only image of a batch would have.
    2,328,899 parameters at Z = 256 and 3 x 32 x 32, 6,966,595 at 3 x 224 x 224.
    """

    def __init__(self, *, latent_dim: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        shorter, longer = sorted((self.height, self.width))
        num_wanted, num_possible = math.ceil(math.log2(longer / LARGEST_FIRST_SIDE)), int(math.log2(shorter / 2))
        num_doublings = max(MIN_DOUBLINGS, min(num_wanted, num_possible))
        first_sides = [max(2, math.ceil(side / 2**num_doublings)) for side in (self.height, self.width)]
        self.first_shape = (2 * BASE_CHANNELS, *first_sides)
        first_channels, first_height, first_width = self.first_shape
        self.project = nn.Linear(latent_dim, first_channels * first_height * first_width)
        layers: list[nn.Module] = [nn.BatchNorm2d(first_channels)]
        for width in (*[first_channels] * (num_doublings - 1), BASE_CHANNELS):
            layers += [DoublingConv2d(first_channels, width), nn.BatchNorm2d(width), nn.LeakyReLU(LEAKY_SLOPE)]
        self.blocks = nn.Sequential(*layers, nn.Conv2d(BASE_CHANNELS, channels, 3, padding=1))

    def forward(self, latents_BZ: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1]."""
        first = self.project(latents_BZ).reshape(-1, *self.first_shape)
        logits = self.blocks(first)[:, :, : self.height, : self.width]
        # A sigmoid in bf16 leaves some hundred grey levels; in the latents' dtype, fp32, it leaves them all.
        return torch.sigmoid(logits.to(latents_BZ.dtype))


@torch.no_grad()
def reset_first_layer(generator: nn.Module, rng: torch.Generator) -> None:
    """Re-draw the first linear layer and the batch-norm after it: weights N(0, .02), biases 0.

    Part of the fast* recipes (`inversion.reset_epoch`): the generator starts over with its convolutions kept.
    Source: Fast-Datafree, which re-draws the batch-norm's weight around 0, too. Draws on the device of `rng`.
    """
    for module in first_layer(generator):
        draw = torch.randn(module.weight.shape, generator=rng, device=rng.device)
        module.weight.copy_(RESET_STD * draw)
        if module.bias is not None:
            module.bias.zero_()


def first_layer(generator: nn.Module) -> tuple[nn.Linear, nn.BatchNorm2d]:
    """The first linear layer and the first batch-norm. Raises ConfigError where one is lacking."""
    linear = next((module for module in generator.modules() if isinstance(module, nn.Linear)), None)
    norm = next((module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)), None)
    if linear is None or norm is None:
        raise ConfigError(
            "`inversion.reset_epoch` re-draws a generator's first linear layer and batch-norm; "
            f"{type(generator).__name__} lacks one",
            hint="set inversion.reset_epoch = 0",
        )
    return linear, norm
