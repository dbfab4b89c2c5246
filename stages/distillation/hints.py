"""Hints: in its first updates the student learns to make the teacher's features as well as its logits.

Not in the paper. A 1x1 convolution beside each of the student's features predicts those of the teacher at the same
resolution; it learns with the student and is forgotten afterwards (FitNets, Romero et al., ICLR 2015, who take one
layer, and hints alone before any logits).

Legend: B batch, C channels, H W pixels, K classes, L resolutions that both networks have features at.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages import optimizers
from stages.models.features import FeatureLayer, last_features, watched_features
from stages.models.normalized import NormalizedModel
from stages.run import Run

_LEARNING_RATE: Final = 1e-2
"""Of Adam, for the predictions, whose inputs and outputs have a deviation of 1 in each channel."""


class NothingInCommon(Exception):  # noqa: N818 - not an error: such a pair learns without hints
    """Teacher and student have no features of the same resolution."""


class Hints:
    """What of the teacher's features the student's tell, and the predictions that are learnt for it."""

    def __init__(self, run: Run) -> None:
        """Find where both networks have features. Raises NothingInCommon where that is nowhere."""
        shape = run.config.task.image_shape
        of_teacher, of_student = last_features(run.teacher, shape), last_features(run.student, shape)
        common = [resolution for resolution in of_student if resolution in of_teacher]
        if not common:
            raise NothingInCommon
        self._teacher, self._student = run.teacher, run.student
        self._teacher_layers = [of_teacher[resolution] for resolution in common]
        self._student_layers = [of_student[resolution] for resolution in common]
        self._predictions = nn.ModuleList(
            nn.Conv2d(own.num_channels, other.num_channels, 1)
            for own, other in zip(self._student_layers, self._teacher_layers, strict=True)
        ).to(run.device)
        for parameter in self._predictions.parameters():
            nn.init.zeros_(parameter)  # they foretell the mean
        groups = [{"params": list(self._predictions.parameters()), "lr": _LEARNING_RATE}]
        self.optimizer = optimizers.adam(groups, betas=(0.9, 0.999), device=run.device)
        """Of the predictions, whose gradients are those of `untold`."""

    def ask_student(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K, ...] of the student, and `untold`, a scalar float32: the share of the variance of the teacher's
        features that is not foretold by the student's, summed over L. Call it within `run.autocast()`."""
        logits_BK, student_L = _logits_and_features(self._student, images_BCHW, self._student_layers)
        with torch.no_grad():  # after the student, whose random numbers are its own
            _, teacher_L = _logits_and_features(self._teacher, images_BCHW, self._teacher_layers)
        untold = logits_BK.new_zeros((), dtype=torch.float32)
        for prediction, own, other in zip(self._predictions, student_L, teacher_L, strict=True):
            if own is not None and other is not None and own.shape[2:] == other.shape[2:]:
                foretold_BCHW, told_BCHW = prediction(_standardized(own).float()), _standardized(other)
                untold = untold + F.mse_loss(foretold_BCHW.float(), told_BCHW.float())
        return logits_BK, untold

    def state_dict(self) -> dict[str, Any]:
        """The predictions and their optimiser."""
        return {"predictions": self._predictions.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._predictions.load_state_dict(state["predictions"])
        optimizers.load(self.optimizer, state["optimizer"])


def hint_loss(untold: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    r"""v / 2 times `untold` (see `Hints`); v is the variance of the teacher's logits over the classes.

    T^2 KL at a high temperature is v / 2 times the share of that variance which the student's logits do not tell, so
    features of each resolution weigh as much as the logits. Shapes: [], [B, K, ...] -> [].
    """
    return teacher_logits_BK.float().var(dim=1, correction=0).mean() / 2 * untold


def _logits_and_features(
    network: NormalizedModel, images_BCHW: Tensor, layers: list[FeatureLayer]
) -> tuple[Tensor, list[Tensor | None]]:
    """Logits [B, K, ...], and the features [B, C, H, W] that the layers return; None of one that is left out this time.

    For a network may leave out layers in training, and give others another size.
    """
    with watched_features(network, (layer.name for layer in layers)) as features:
        logits_BK = network(images_BCHW)
    return logits_BK, [features.get(layer.name) for layer in layers]


def _standardized(features_BCHW: Tensor) -> Tensor:
    """Mean 0 and deviation 1 in each channel; 0 where a channel has none."""
    return F.batch_norm(features_BCHW, None, None, training=True)
