"""VGG-11 with batch-norm for small images: max-pool after the first three groups, mean, one linear layer.

    [conv 3x3, BN, ReLU] x (64 | 128 | 256 256 | 512 512 | 512 512)

State-dict names are those of the public distillation code (`block0.0` a convolution, `block0.1` its BN, ...,
`classifier`). Files with `features.N` names come from another network, with a max-pool after every group:
their weights would fit and score badly, so these names are not translated.

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from stages.errors import ConfigError

GROUPS = {11: ((64,), (128,), (256, 256), (512, 512), (512, 512))}
NUM_POOLED_GROUPS = 3
SMALLEST_SIDE = 2**NUM_POOLED_GROUPS


class VGG(nn.Module):
    """[B, in_channels, H, W] normalised images -> [B, K] logits, for any H and W of at least 8."""

    def __init__(self, *, groups: tuple[tuple[int, ...], ...], num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.num_groups = len(groups)
        channels = in_channels
        for index, widths in enumerate(groups):
            self.add_module(f"block{index}", _group((channels, *widths)))
            channels = widths[-1]
        self.classifier = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """N(0, sqrt(2 / (k^2 C_out))) for convolutions, N(0, .01) for the linear layer, biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]."""
        x = images_BCHW
        for index in range(self.num_groups):
            x = self.get_submodule(f"block{index}")(x)
            if index < NUM_POOLED_GROUPS:
                x = F.max_pool2d(x, 2)
        logits_BK: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits_BK


def _group(channels: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


def vgg(*, depth: int, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> VGG:
    """Build `vgg11`. Raises ConfigError for images too small for its three max-pools."""
    if min(image_size) < SMALLEST_SIDE:
        raise ConfigError(
            f"VGG halves the image three times and needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE} pixels; "
            f"`task.image_shape` has {image_size[0]}x{image_size[1]}",
            hint="take a residual network for images this small",
        )
    return VGG(groups=GROUPS[depth], num_classes=num_classes, in_channels=in_channels)
