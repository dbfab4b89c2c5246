"""Wide residual networks for small images (Zagoruyko and Komodakis, 2016).

    conv 3x3 -> 3 stages of blocks, channels 16k, 32k, 64k, strides 1, 2, 2 -> BN, ReLU, mean, linear

Depth 6n + 4: n blocks of two convolutions in each of three stages, the stem, and three 1x1 shortcuts, counted
by tradition. State-dict names are those of most public checkpoints; `stages.models.public_names` translates
the other family.

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stages.errors import ConfigError

STEM_CHANNELS = 16
STAGE_CHANNELS = (16, 32, 64)
STAGE_STRIDES = (1, 2, 2)
SMALLEST_DEPTH = 10


class PreActivationBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, plus the input; [B, in, H, W] -> [B, out, H/stride, W/stride].

    Where the shape changes, the shortcut is a 1x1 convolution of the pre-activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes_shape = in_channels != out_channels or stride != 1
        self.convShortcut = (  # the name is part of the public checkpoints
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if changes_shape else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, not yet activated."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + shortcut


class Stage(nn.Module):
    """A row of blocks at one resolution, the first of which may halve it."""

    def __init__(self, num_blocks: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            PreActivationBlock(in_channels, out_channels, stride),
            *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H/stride, W/stride]."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """[B, in_channels, H, W] normalised images -> [B, K] logits, for any H and W."""

    def __init__(self, *, num_blocks: int, width: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels = [STEM_CHANNELS, *(width * base for base in STAGE_CHANNELS)]
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.block1 = Stage(num_blocks, channels[0], channels[1], STAGE_STRIDES[0])
        self.block2 = Stage(num_blocks, channels[1], channels[2], STAGE_STRIDES[1])
        self.block3 = Stage(num_blocks, channels[2], channels[3], STAGE_STRIDES[2])
        self.bn1 = nn.BatchNorm2d(channels[3])
        self.fc = nn.Linear(channels[3], num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """N(0, sqrt(2 / (k^2 C_out))) for convolutions, as in the public code; the linear bias is 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        x = self.block3(self.block2(self.block1(self.conv1(images_BCHW))))
        x = F.relu(self.bn1(x))
        logits_BK: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits_BK


def wide_resnet(
    *, depth: int, width: int, num_classes: int, in_channels: int, image_size: tuple[int, int]
) -> WideResNet:
    """Build `wrn{depth}_{width}`. Raises ConfigError where depth is not 6n+4, n >= 1."""
    del image_size  # any size: the mean comes before the linear layer
    if depth < SMALLEST_DEPTH or depth % 6 != 4:
        below = max(SMALLEST_DEPTH, depth - (depth - 4) % 6)
        valid = sorted({below, below + 6})
        raise ConfigError(
            f"a WRN's depth is 6n+4, at least {SMALLEST_DEPTH}; got {depth}",
            hint="the nearest are " + " and ".join(f"`wrn{near}_{width}`" for near in valid),
        )
    return WideResNet(num_blocks=(depth - 4) // 6, width=width, num_classes=num_classes, in_channels=in_channels)
