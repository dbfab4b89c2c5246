"""Rows of a replay buffer: images of odd sizes, of classes with names."""

from __future__ import annotations

from typing import Any

from buffer_files import make_contents

from stages.buffer.file import BufferContents

META: dict[str, Any] = {
    "class_names": ("cat", "dog", "horse", "größte Möwe"),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.2, 0.2),
    "teacher_sha256": "0123456789abcdef" * 4,
}


def make_rows(num: int = 30, **chosen: Any) -> BufferContents:
    return make_contents(num, image_shape=(3, 6, 5), num_classes=4, **META | chosen)
