"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stages.errors import StorageError


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write `data`, whole or piece by piece, so that `path` holds its old content or the new one, whatever happens.

    Even after a power cut. Raises StorageError where the file cannot be written (disk full, permission lost); nothing
    is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    num_written = 0
    try:
        with temporary.open("wb") as file:
            for piece in [data] if isinstance(data, bytes) else data:
                num_written += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name, too, must survive
        finally:
            os.close(folder)
    except BaseException as error:  # also a piece that could not be made, or a second Ctrl-C
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"no space left on the disk for {path} ({num_written / 2**20:.1f} MiB were written)",
                hint="free some space",
            ) from error
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}", hint=f"check {path.parent} and its permissions"
        ) from error


def is_half_written(path: Path) -> bool:
    """Whether this is a file that is being written, or was when its process ended."""
    return path.name.startswith(".") and path.suffix == ".tmp"
