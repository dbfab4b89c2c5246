"""What a task has to say for itself; everything else in a run does not know which task it serves.

Predictions are logits [B, K, ...]: a label per image has no further dimensions, a label per pixel has H, W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from stages.errors import ConfigError
from stages.registry import build

if TYPE_CHECKING:
    from stages.config import TaskTable


class Metrics(Protocol):
    """Accumulates a task's metrics over batches of real, labelled images."""

    def update(self, logits_BK: Tensor, labels_B: Tensor) -> None:
        """Add one batch: logits [B, K, ...] and labels [B, ...] int64."""

    def result(self) -> dict[str, Any]:
        """The metrics so far: `loss` in nats, `num_samples` a count, all others fractions in [0, 1]."""


class Task(Protocol):
    """How classes, targets, reductions and metrics work for one kind of problem."""

    num_classes: int
    headline: str
    """The metric that sums up the others ("top1")."""

    def label_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of one sample's label: () for a label per image, (H, W) for a label per pixel."""

    def predict(self, logits_BK: Tensor) -> tuple[Tensor, Tensor]:
        """c_T and p_T of Eq. 3: the most probable class [B, ...] int64 and its probability [B, ...] float32."""

    def per_sample(self, values_B: Tensor) -> Tensor:
        """Reduce a value per prediction [B, ...] to one per sample [B]."""

    def draw_targets(
        self,
        policy: str,
        num: int,
        *,
        class_counts_K: Tensor,
        image_shape: Sequence[int],
        rng: torch.Generator,
    ) -> Tensor | None:
        """Classes that the inverted samples shall have, [num, ...] int64; None: the teacher's own prediction.

        `policy` is "uniform", "balanced", "inverse_frequency" (what they mean: `inversion.targets`), or "teacher".
        """

    def new_metrics(self) -> Metrics:
        """An empty accumulator."""


def task_of(table: TaskTable) -> Task:
    """The task that `[task]` describes.

    Raises ConfigError where none has the name of its kind, and where its labels are neither of images nor of pixels.
    """
    task: Task = build("tasks", table.kind, table.num_classes, where="task.kind", takes="num_classes")
    height_width = tuple(table.image_shape[1:])
    if task.label_shape(table.image_shape) not in ((), height_width):
        raise ConfigError(
            f"`task.kind` = `{table.kind}` has labels of shape {list(task.label_shape(table.image_shape))}",
            hint=f"an image has one label, [], or one for each of its pixels, {list(height_width)}",
        )
    return task
