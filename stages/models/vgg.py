"""VGGs with batch-norm for small images: max-pool after the first three or four groups, mean, one linear layer.

    VGG-11: [conv 3x3, BN, ReLU] x (64 | 128 | 256 256 | 512 512 | 512 512)

State-dict names are those of the public distillation code (`block0.0` a convolution, `block0.1` its BN, ...,
`classifier`). Files with `features.N` names come from another network, with a max-pool after every group:
their weights would fit and score badly, so these names are not translated.

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stages.errors import ConfigError

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each group, by the network's depth."""
NUM_POOLED_GROUPS = 3
SMALLEST_SIDE = 2**NUM_POOLED_GROUPS
HEIGHT_POOLED_AGAIN = 64
"""Images of this height, Tiny ImageNet's, are pooled after the fourth group, too: so does the public code."""


class VGG(nn.Module):
    """[B, in_channels, H, W] normalised images -> [B, K] logits, for any H and W of at least 8."""

    def __init__(self, *, num_convolutions: tuple[int, ...], num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.num_groups = len(num_convolutions)
        channels = in_channels
        for index, (width, number) in enumerate(zip(WIDTHS, num_convolutions, strict=True)):
            self.add_module(f"block{index}", _group(channels, width, number))
            channels = width
        self.classifier = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """N(0, sqrt(2 / (k^2 C_out))) for convolutions, N(0, .01) for the linear layer, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        x = images_BCHW
        num_pooled = NUM_POOLED_GROUPS + (x.shape[2] == HEIGHT_POOLED_AGAIN)
        for index in range(self.num_groups):
            x = self.get_submodule(f"block{index}")(x)
            if index < num_pooled:
                x = F.max_pool2d(x, 2)
        logits_BK: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits_BK


def _group(in_channels: int, channels: int, num_convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, *[channels] * (num_convolutions - 1)):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def vgg(*, depth: int, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> VGG:
    """Build `vgg{depth}`. Raises ConfigError for images too small for its three max-pools."""
    if min(image_size) < SMALLEST_SIDE:
        raise ConfigError(
            f"VGG halves the image three times and needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels; "
            f"`task.image_shape` has {image_size[0]}x{image_size[1]}",
            hint="take a residual network for images this small",
        )
    return VGG(num_convolutions=DEPTHS[depth], num_classes=num_classes, in_channels=in_channels)
