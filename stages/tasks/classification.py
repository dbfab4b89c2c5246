"""Image classification: one label per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Classification:
    """A label per image; metrics top-1, top-5 and cross-entropy."""

    headline = "top1"

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def label_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:  # noqa: ARG002 - the same for all sizes
        """A label per image: ()."""
        return ()

    def predict(self, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable class [B] and its probability [B]."""
        probability_B, class_B = logits_BK.float().softmax(dim=1).max(dim=1)
        return class_B, probability_B

    def per_sample(self, values_B: Tensor) -> Tensor:
        """Already one value per sample."""
        return values_B

    def draw_targets(
        self,
        policy: str,
        num: int,
        *,
        class_counts_K: Tensor,
        image_shape: Sequence[int],  # noqa: ARG002 - a label per image
        rng: torch.Generator,
    ) -> Tensor | None:
        """Target classes [num] int64 on the generator's device, or None for the teacher's own prediction.

        "uniform": independent, equally likely. "balanced": every class floor or ceil(num / K) times, in random order.
        "inverse_frequency": likelier the fewer buffered samples the class has, proportional to 1 / (count + 1).
        """
        match policy:
            case "uniform":
                return torch.randint(self.num_classes, (num,), generator=rng, device=rng.device)
            case "balanced":
                classes_K = torch.randperm(self.num_classes, generator=rng, device=rng.device)
                order = torch.randperm(num, generator=rng, device=rng.device)
                return classes_K[order % self.num_classes]
            case "inverse_frequency":
                weight_K = 1.0 / (class_counts_K.float() + 1.0)
                return torch.multinomial(weight_K, num, replacement=True, generator=rng)
            case "teacher":
                return None
        raise AssertionError(f"the schema lets no other policy through: {policy}")

    def new_metrics(self) -> ClassificationMetrics:
        """An empty accumulator of top-1, top-5 and loss."""
        return ClassificationMetrics()


class ClassificationMetrics:
    """Top-1 and top-5 accuracy (fractions) and mean cross-entropy (nats). Top-5 is 1 with five classes or fewer."""

    def __init__(self) -> None:
        self._num_samples = 0
        self._top1 = 0
        self._top5 = 0
        self._loss = 0.0

    def update(self, logits_BK: Tensor, labels_B: Tensor) -> None:
        """Add a batch of logits [B, K] and labels [B]."""
        logits_BK = logits_BK.float()
        best_B5 = logits_BK.topk(min(5, logits_BK.shape[1]), dim=1).indices
        hit_B5 = best_B5 == labels_B[:, None]
        self._num_samples += len(labels_B)
        self._top1 += int(hit_B5[:, 0].sum())
        self._top5 += int(hit_B5.any(dim=1).sum())
        self._loss += float(F.cross_entropy(logits_BK, labels_B, reduction="sum"))

    def result(self) -> dict[str, Any]:
        """{"top1", "top5", "loss", "num_samples"}."""
        num = max(self._num_samples, 1)
        return {
            "top1": self._top1 / num,
            "top5": self._top5 / num,
            "loss": self._loss / num,
            "num_samples": self._num_samples,
        }
