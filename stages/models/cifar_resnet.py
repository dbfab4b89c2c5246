"""The ResNets for CIFAR of He et al. (2015), section 4.2: 6n+2 layers, shortcuts without weights (option A).

    conv 3x3, BN, ReLU -> 3 stages of n blocks, 16, 32, 64 channels, strides 1, 2, 2 -> mean, linear

State-dict names are those of the widespread public checkpoints (`conv1, bn1, layer1.0.conv1, ..., linear`).

The variants of the public code of "Contrastive Representation Distillation" (Tian et al., ICLR 2020) have shortcuts
of a 1x1 convolution and BN (option B) where size or channels change: `b` is the network above with them, `x4` begins
with 32 channels and has 64, 128, 256 in its stages.

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from stages.models.resnet import BasicBlock, MakeModule, ResNet, projection

CHANNELS = {"": (16, 16, 32, 64), "b": (16, 16, 32, 64), "x4": (32, 64, 128, 256)}
"""Of the first convolution and of the three stages, by variant."""


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, the new channels zero; half of them before, half after the old ones."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + new, ceil(H/2), ceil(W/2)]."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class CifarBlock(BasicBlock):
    """A class of its own, for `stages.models.weight_selection` matches networks of one class of blocks stage by stage:
    the last of three stages is not the last but one of ResNet-18's."""


def cifar_resnet(
    *, depth: int, num_classes: int, in_channels: int, image_size: tuple[int, int], variant: str = ""
) -> ResNet:
    """Build `resnet{depth}{variant}`, depth = 6n + 2."""
    del image_size  # any size: the mean comes before the linear layer
    shortcut: MakeModule = projection if variant else lambda before, after, _: PaddedShortcut(after - before)
    network = ResNet(
        partial(CifarBlock, shortcut=shortcut),
        channels=CHANNELS[variant],
        num_blocks=3 * ((depth - 2) // 6,),
        num_classes=num_classes,
        in_channels=in_channels,
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return network
