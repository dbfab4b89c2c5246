"""Rows of a replay buffer that a test made, and files of them; runs write theirs from the buffer on the device."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stages.buffer.file import BufferContents, BufferMeta, write_rows


def make_meta(*, num_classes: int = 10, num_channels: int = 1, **others: Any) -> BufferMeta:
    """What a file says of its samples, for tests that look at little of it."""
    values = {
        "task": "classification",
        "num_classes": num_classes,
        "class_names": None,
        "mean": (0.5,) * num_channels,
        "std": (0.5,) * num_channels,
        "capacity": 50,
        "alpha": 0.6,
        "epsilon": 1e-6,
        "teacher_sha256": "0" * 64,
    }
    return BufferMeta(**values | others)


def make_contents(
    num: int = 30,
    *,
    image_shape: tuple[int, ...] = (1, 8, 8),
    num_classes: int = 10,
    label_shape: tuple[int, ...] = (),
    seed: int = 0,
    **chosen: Any,
) -> BufferContents:
    """Rows of a buffer, drawn from a seed; columns (a value for all, or one for each) and metadata of choice."""
    rng = np.random.default_rng(seed)
    columns = {
        "images": rng.integers(0, 256, (num, *image_shape), dtype=np.uint8),
        "teacher_class": rng.integers(0, num_classes, (num, *label_shape)),
        "teacher_prob": rng.uniform(0.3, 1.0, (num, *label_shape)).astype(np.float32),
        "priority": rng.lognormal(-2, 1, num).astype(np.float32),
        "age": np.sort(rng.integers(0, 20, num)).astype(np.int32)[::-1],
        "target": rng.integers(-1, num_classes, (num, *label_shape)),
    }
    for name in columns.keys() & chosen.keys():
        columns[name] = np.full(columns[name].shape, chosen.pop(name), columns[name].dtype)
    return BufferContents(**columns, meta=make_meta(num_classes=num_classes, num_channels=image_shape[0], **chosen))


def write_buffer(path: Path, contents: BufferContents) -> None:
    write_rows(path, contents.arrays(), contents.images.shape, lambda: [contents.images], contents.meta)


def to_bytes(contents: BufferContents) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_buffer(Path(folder) / "buffer", contents)
        return (Path(folder) / "buffer").read_bytes()
