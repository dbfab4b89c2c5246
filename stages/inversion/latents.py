"""Latents that know their target class: Gaussian noise around a point of the class's own.

The points come from the teacher's last linear layer, whose row of a class is what the network looks for in it. Classes
that look alike get points close to one another, and the meta-generator can learn what makes each of them. Not in the
paper; in the spirit of NAYER (Tran et al., CVPR 2024), whose generator is given embeddings of the classes' names.

Legend: B batch, K classes, F features, Z latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.errors import ConfigError
from stages.models.layers import classifying_layer


@torch.no_grad()
def class_anchors(teacher: nn.Module, *, num_classes: int, latent_dim: int, rng: torch.Generator) -> Tensor:
    """A point for each class, float32 [K, Z] on the teacher's device: random projections of the last layer's rows.

    The rows less their mean are projected to Z dimensions by one Gaussian matrix and scaled so that the entries of all
    points have variance 1, as the noise has. `rng` is a CPU's, so that a run has the same points on every device.
    Raises ConfigError where the teacher has no linear layer with K outputs.
    """
    layer = classifying_layer(teacher, num_classes=num_classes)
    if layer is None:
        raise ConfigError(
            f"`inversion.class_latents` needs a last linear layer with {num_classes} outputs, and the teacher has none",
            hint="set inversion.class_latents = 0",
        )
    rows_KF = layer.weight.float()
    rows_KF = rows_KF - rows_KF.mean(dim=0)
    projection_FZ = torch.randn(rows_KF.shape[1], latent_dim, generator=rng)
    anchors_KZ = rows_KF @ projection_FZ.to(rows_KF.device)
    return anchors_KZ / anchors_KZ.square().mean().sqrt()
