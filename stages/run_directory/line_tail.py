"""Reading a file that somebody is still writing: new whole lines, so many bytes at a time.

A line without its newline waits for it. A file that is not there is empty until it is; one that became shorter, or
another file, is read anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MAX_LINE_BYTES = 16 << 20
"""A line longer than this is not kept until its end but passed over, and counted as damaged."""

_GONE = -1


@dataclass(frozen=True)
class Bite:
    """What one look at the file gave."""

    lines: list[bytes]
    """Whole new lines, without their newlines."""
    is_at_end: bool
    """Whether all that was there at the time of the look has been read."""
    is_replaced: bool = False
    """Whether the file is another one than before, or was cut: these lines are its first."""
    error: str = ""
    """Why the file could not be read, in words; empty where it could."""


class Tail:
    """The lines that were added to a file since the last look. `offset` is where the next look begins."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self.size = 0
        """Bytes in the file at the last look."""
        self.num_too_long = 0
        """Lines that were passed over for their length."""
        self._torn = b""
        self._is_skipping = False
        self._inode: int | None = None

    @property
    def is_torn(self) -> bool:
        """Whether the file ended within a line at the last look."""
        return bool(self._torn) or self._is_skipping

    def poll(self, max_bytes: int = 1 << 20) -> Bite:
        """Read on, `max_bytes` at the most."""
        try:
            status = self.path.stat()
            is_replaced = self._inode not in (None, status.st_ino) or status.st_size < self.offset
            if is_replaced:
                self.offset, self._torn, self._is_skipping, self.num_too_long = 0, b"", False, 0
            self._inode, self.size = status.st_ino, status.st_size
            if self.size == self.offset:
                return Bite([], is_at_end=True, is_replaced=is_replaced)
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(max_bytes)
        except FileNotFoundError:
            if self._inode is not None:
                self._inode = _GONE  # whatever comes under this name is another file
            return Bite([], is_at_end=True, error=f"{self.path} is not there")
        except OSError as error:
            return Bite([], is_at_end=True, error=f"cannot read {self.path}: {os.strerror(error.errno or 0)}")
        self.offset += len(data)
        return Bite(self._whole_lines(data), is_at_end=self.offset >= self.size, is_replaced=is_replaced)

    def _whole_lines(self, data: bytes) -> list[bytes]:
        if b"\n" not in data:
            if not self._is_skipping:
                self._keep(self._torn + data)
            return []
        first, *lines = data.split(b"\n")
        last = lines.pop()
        if self._is_skipping:
            self._is_skipping = False
        else:
            lines.insert(0, self._torn + first)
        self._keep(last)
        return lines

    def _keep(self, torn: bytes) -> None:
        """Remember the beginning of a line until the rest comes."""
        self._is_skipping = len(torn) > MAX_LINE_BYTES
        self.num_too_long += self._is_skipping
        self._torn = b"" if self._is_skipping else torn
