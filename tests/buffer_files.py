"""Buffer files of rows that a test made; runs write theirs from the buffer on the device."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

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


def write_buffer(path: Path, contents: BufferContents) -> None:
    write_rows(path, contents.arrays(), contents.images.shape, lambda: [contents.images], contents.meta)


def to_bytes(contents: BufferContents) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_buffer(Path(folder) / "buffer", contents)
        return (Path(folder) / "buffer").read_bytes()
