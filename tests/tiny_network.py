"""The smallest networks with what the method looks at: batch-norm layers, logits, images from latents.

They are smooth: at a kink, rounding would decide between two gradients, and a reimplementation would round otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    """Conv, BN, tanh, conv, BN, tanh, 2x2 means, linear; its batch-norms have weights, and statistics of noise."""

    def __init__(self, *, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.linear = nn.Linear(8 * width, num_classes)
        nn.init.normal_(self.linear.weight, 0.0, 2.0)  # logits far enough apart to have an opinion
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0.0, 0.3)
            norm.momentum = 1.0  # the statistics of the next batch, whole
        with torch.no_grad():
            logits_BK = self(torch.randn(64, in_channels, 8, 6))
            self.linear.bias -= logits_BK.mean(dim=0)  # no class is everyone's
        for norm in (self.bn1, self.bn2):
            norm.momentum = 0.1

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.logits_and_features(images_BCHW)[0]

    def logits_and_features(self, images_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [B, K], and what went into each batch-norm layer."""
        first = self.conv1(images_BCHW)
        second = self.conv2(torch.tanh(self.bn1(first)))
        logits_BK = self.linear(F.adaptive_avg_pool2d(torch.tanh(self.bn2(second)), 2).flatten(1))
        return logits_BK, [first, second]


class TinyGenerator(nn.Sequential):
    """Latents [B, Z] -> images [B, C, H, W] in [0, 1]: linear, BN, tanh, conv, sigmoid."""

    def __init__(self, *, latent_dim: int, image_shape: tuple[int, int, int]) -> None:
        channels, height, width = image_shape
        super().__init__(
            nn.Linear(latent_dim, 4 * height * width),
            nn.Unflatten(1, (4, height, width)),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Conv2d(4, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        nn.init.normal_(self[4].weight, 0.0, 0.5)  # pictures with some contrast
