"""Residual networks for small images: a 3x3 stem of stride 1, no max-pool, stages of blocks of two convolutions.

    conv 3x3, BN, ReLU -> stages of blocks, strides 1, 2, 2, ... -> mean, linear

ResNet-18 and ResNet-34 have 4 stages of 64, 128, 256, 512 channels, and shortcuts of a 1x1 convolution and BN;
`stages.models.cifar_resnet` has those of 3 stages. With the stem for ImageNet it is `torchvision:resnet18`.

State-dict names are those of the public small-image code (`layer1.0.conv1`, ..., `layer2.0.shortcut.0`, ...,
`linear`); `stages.models.public_names` takes `downsample` and `fc` as well.

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (64, 64, 128, 256, 512)
"""Of the first convolution and of the four stages."""
NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

MakeModule = Callable[[int, int, int], nn.Module]
"""Of a number of input channels, one of output channels, and a stride."""


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """A shortcut with weights, option B of He et al. (2015)."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Conv, BN, ReLU, conv, BN, plus the shortcut, ReLU; [B, in, H, W] -> [B, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, shortcut: MakeModule = projection) -> None:
        """`shortcut` makes one where size or channels change."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = shortcut(in_channels, out_channels, stride) if changes_shape else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        """The block's activated output."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """[B, in_channels, H, W] normalised images -> [B, K] logits, for any H and W."""

    def __init__(
        self,
        block: MakeModule,
        *,
        channels: tuple[int, ...],
        num_blocks: tuple[int, ...],
        num_classes: int,
        in_channels: int,
    ) -> None:
        """`channels` of the first convolution, then of each stage."""
        super().__init__()
        self.num_stages = len(num_blocks)
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        for stage, ((before, after), number) in enumerate(zip(pairwise(channels), num_blocks, strict=True), start=1):
            first = block(before, after, 1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", nn.Sequential(first, *(block(after, after, 1) for _ in range(number - 1))))
        self.linear = nn.Linear(channels[-1], num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        x = F.relu(self.bn1(self.conv1(images_BCHW)))
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits_BK: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits_BK


def resnet(*, depth: int, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> ResNet:
    """Build `resnet18` or `resnet34`."""
    del image_size  # any size: the mean comes before the linear layer
    num_blocks = NUM_BLOCKS[depth]
    return ResNet(
        BasicBlock, channels=CHANNELS, num_blocks=num_blocks, num_classes=num_classes, in_channels=in_channels
    )
