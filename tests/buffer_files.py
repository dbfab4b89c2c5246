"""Buffer files of rows that a test made; runs write theirs from the buffer on the device."""

from __future__ import annotations

import tempfile
from pathlib import Path

from stages.buffer.file import BufferContents, write_rows


def write_buffer(path: Path, contents: BufferContents) -> None:
    write_rows(path, contents.arrays(), contents.images.shape, lambda: [contents.images], contents.meta)


def to_bytes(contents: BufferContents) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_buffer(Path(folder) / "buffer", contents)
        return (Path(folder) / "buffer").read_bytes()
