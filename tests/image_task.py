"""What networks of a test are built for."""

from __future__ import annotations

from stages.config import TaskTable


def image_task(num_classes: int = 10, image_shape: tuple[int, int, int] = (3, 32, 32)) -> TaskTable:
    """Classes and images; how these are normalised plays no part in a network."""
    half = (0.5,) * image_shape[0]
    return TaskTable(num_classes=num_classes, image_shape=image_shape, mean=half, std=half)
