"""A teacher and a student so small that a run of four epochs takes a moment; named in presets as file:function."""

from __future__ import annotations

import torch
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


def student(num_classes: int) -> nn.Module:
    """With dropout: what it draws must not depend on who else drew, nor on a resumption."""
    return SmallNetwork(num_classes=num_classes, width=4, dropout=0.2)
