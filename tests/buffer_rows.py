"""Rows of a replay buffer, made from a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.buffer.file import BufferContents, BufferMeta

META: dict[str, Any] = {
    "task": "classification",
    "num_classes": 4,
    "class_names": ("cat", "dog", "horse", "größte Möwe"),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.2, 0.2),
    "capacity": 50,
    "alpha": 0.6,
    "epsilon": 1e-6,
    "teacher_sha256": "0123456789abcdef" * 4,
}


def make_rows(num: int = 30, *, seed: int = 0, label_shape: tuple[int, ...] = (), **meta: Any) -> BufferContents:
    rng = np.random.default_rng(seed)
    return BufferContents(
        images=rng.integers(0, 256, (num, 3, 6, 5), dtype=np.uint8),
        teacher_class=rng.integers(0, 4, (num, *label_shape)),
        teacher_prob=rng.uniform(0.3, 1.0, (num, *label_shape)).astype(np.float32),
        priority=rng.lognormal(-2, 1, num).astype(np.float32),
        age=np.sort(rng.integers(0, 20, num)).astype(np.int32)[::-1],
        target=rng.integers(-1, 4, (num, *label_shape)),
        meta=BufferMeta(**META | meta),
    )
