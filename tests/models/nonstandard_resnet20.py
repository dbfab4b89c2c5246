"""A user's own network file, as `path/to/file.py:factory` takes it.

ResNet-20 as karanchahal/distiller trained it: a stem of 64 channels, a 1x1 shortcut in the first block of a
stage, no ReLU after the addition inside a stage but one after each, 2x2 positions before the linear layer.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int, *, is_first: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if is_first:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)


class ResNet20(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._stage(64, 16, stride=1)
        self.layer2 = self._stage(16, 32, stride=2)
        self.layer3 = self._stage(32, 64, stride=2)
        self.linear = nn.Linear(256, num_classes)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            Block(in_channels, out_channels, stride, is_first=True),
            Block(out_channels, out_channels, 1, is_first=False),
            Block(out_channels, out_channels, 1, is_first=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = F.relu(stage(x))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


def resnet20(num_classes: int) -> nn.Module:
    return ResNet20(num_classes)
