"""The ResNets for CIFAR of He et al. (2015), section 4.2: 6n+2 layers, shortcuts without weights (option A).

    conv 3x3, BN, ReLU -> 3 stages of n blocks, 16, 32, 64 channels, strides 1, 2, 2 -> mean, linear

State-dict names are those of the widespread public checkpoints (`conv1, bn1, layer1.0.conv1, ..., linear`).

The variants of the public code of "Contrastive Representation Distillation" (Tian et al., ICLR 2020) have shortcuts
of a 1x1 convolution and BN (option B) where size or channels change: `b` is the network above with them, `x4` begins
with 32 channels and has 64, 128, 256 in its stages.

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = {"": (16, 16, 32, 64), "b": (16, 16, 32, 64), "x4": (32, 64, 128, 256)}
"""Of the first convolution and of the three stages, by variant."""
STAGE_STRIDES = (1, 2, 2)


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, the new channels zero; half of them before, half after the old ones."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + new, ceil(H/2), ceil(W/2)]."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Conv, BN, ReLU, conv, BN, plus the shortcut, ReLU; [B, in, H, W] -> [B, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, projects: bool) -> None:
        """`projects`: option B."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = PaddedShortcut(out_channels - in_channels)
            if projects:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
                )

    def forward(self, x: Tensor) -> Tensor:
        """The block's activated output."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """[B, in_channels, H, W] normalised images -> [B, K] logits, for any H and W."""

    def __init__(self, *, num_blocks: int, num_classes: int, in_channels: int, variant: str = "") -> None:
        super().__init__()
        first, narrow, middle, wide = CHANNELS[variant]
        projects = variant != ""
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(num_blocks, first, narrow, STAGE_STRIDES[0], projects=projects)
        self.layer2 = _stage(num_blocks, narrow, middle, STAGE_STRIDES[1], projects=projects)
        self.layer3 = _stage(num_blocks, middle, wide, STAGE_STRIDES[2], projects=projects)
        self.linear = nn.Linear(wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        x = F.relu(self.bn1(self.conv1(images_BCHW)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits_BK: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits_BK


def _stage(num_blocks: int, in_channels: int, out_channels: int, stride: int, *, projects: bool) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride, projects=projects),
        *(BasicBlock(out_channels, out_channels, 1, projects=projects) for _ in range(num_blocks - 1)),
    )


def cifar_resnet(
    *, depth: int, num_classes: int, in_channels: int, image_size: tuple[int, int], variant: str = ""
) -> CifarResNet:
    """Build `resnet{depth}{variant}`, depth = 6n + 2."""
    del image_size  # any size: the mean comes before the linear layer
    return CifarResNet(num_blocks=(depth - 2) // 6, num_classes=num_classes, in_channels=in_channels, variant=variant)
