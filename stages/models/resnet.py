"""ResNet-18 and ResNet-34 for small images: a 3x3 stem of stride 1, no max-pool, 1x1 + BN shortcuts.

    conv 3x3, BN, ReLU -> 4 stages of blocks, 64, 128, 256, 512 channels, strides 1, 2, 2, 2 -> mean, linear

State-dict names are those of the public small-image code (`layer1.0.conv1`, ..., `layer2.0.shortcut.0`, ...,
`linear`); `stages.models.public_names` takes `downsample` and `fc` as well. With the stem for ImageNet it is
`torchvision:resnet18`.

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGE_CHANNELS = (64, 128, 256, 512)
STAGE_STRIDES = (1, 2, 2, 2)
NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Conv, BN, ReLU, conv, BN, plus the shortcut, ReLU; [B, in, H, W] -> [B, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's activated output."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """[B, in_channels, H, W] normalised images -> [B, K] logits, for any H and W."""

    def __init__(self, *, num_blocks: tuple[int, int, int, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, STAGE_CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGE_CHANNELS[0])
        self.layer1 = _stage(num_blocks[0], 64, 64, STAGE_STRIDES[0])
        self.layer2 = _stage(num_blocks[1], 64, 128, STAGE_STRIDES[1])
        self.layer3 = _stage(num_blocks[2], 128, 256, STAGE_STRIDES[2])
        self.layer4 = _stage(num_blocks[3], 256, 512, STAGE_STRIDES[3])
        self.linear = nn.Linear(STAGE_CHANNELS[3], num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        x = F.relu(self.bn1(self.conv1(images_BCHW)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits_BK: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits_BK


def _stage(num_blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride),
        *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)),
    )


def resnet(*, depth: int, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> ResNet:
    """Build `resnet18` or `resnet34`."""
    del image_size  # any size: the mean comes before the linear layer
    return ResNet(num_blocks=NUM_BLOCKS[depth], num_classes=num_classes, in_channels=in_channels)
