"""A teacher and a student so small that a run of four epochs takes a moment; named in presets as file:function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Two convolutions, with batch-norm or without, and a linear layer; for images of 1x8x8."""

    def __init__(
        self, *, num_classes: int, width: int, dropout: float = 0.0, has_norms: bool = True, views: bool = False
    ) -> None:
        super().__init__()
        self.views = views
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width) if has_norms else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width) if has_norms else nn.Identity(),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * width * 4 * 4, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BCHW = self.features(images_BCHW)
        features_BC = features_BCHW.view(len(images_BCHW), -1) if self.views else features_BCHW.flatten(1)
        logits_BK: Tensor = self.linear(self.dropout(features_BC))
        return logits_BK


def teacher(num_classes: int) -> nn.Module:
    network = SmallNetwork(num_classes=num_classes, width=6)
    with torch.no_grad():
        network.linear.weight.mul_(4)  # logits far enough apart to name several classes
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network


def teacher_without_norms(num_classes: int) -> nn.Module:
    return SmallNetwork(num_classes=num_classes, width=6, has_norms=False)


def viewing(num_classes: int) -> nn.Module:
    """Flattens in a way that features with their channels last do not allow."""
    return SmallNetwork(num_classes=num_classes, width=4, views=True)


class KeepingNetwork(SmallNetwork):
    """Keeps its features for whoever wants to look, names the inputs of its layers, and flattens by a view."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.last = images_BCHW
        for layer in self.features:
            self.last = layer(input=self.last)
        logits_BK: Tensor = self.linear(self.last.view(len(images_BCHW), -1))
        return logits_BK


def keeping(num_classes: int) -> nn.Module:
    return KeepingNetwork(num_classes=num_classes, width=4)


class ReadingNetwork(SmallNetwork):
    """Reads the numbers of its batch-norm layers and does not call them."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        first, norm1, _, second, norm2, _ = self.features
        features_BCHW = images_BCHW
        for conv, norm in ((first, norm1), (second, norm2)):
            numbers = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            features_BCHW = F.batch_norm(conv(features_BCHW), *numbers).relu()
        logits_BK: Tensor = self.linear(features_BCHW.flatten(1))
        return logits_BK


def reading(num_classes: int) -> nn.Module:
    return ReadingNetwork(num_classes=num_classes, width=4)


def student(num_classes: int) -> nn.Module:
    """With dropout: what it draws must not depend on who else drew, nor on a resumption."""
    return SmallNetwork(num_classes=num_classes, width=4, dropout=0.2)
