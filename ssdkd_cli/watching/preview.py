"""A long file at a glance: lines from all over it, and all of its end, in a fraction of a second.

So the first picture of a run of a million events is there at once: its present state is right, its curves have their
shape; both are replaced when everything has been read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIN_BYTES = 2 << 20
"""Below this a file is read whole instead, in a fraction of a second."""

_HEAD_BYTES = 1 << 16
_NUM_BLOCKS = 64
_BLOCK_BYTES = 1 << 14
_TAIL_BYTES = 1 << 18
_SEARCH_BYTES = 16 << 20
_RARE_KINDS = (b"buffer_state", b"device", b"samples", b"evaluation")
"""Events that a screen needs the newest of, wherever it lies."""


@dataclass(frozen=True)
class Preview:
    """Some lines of a file in their order, and the offset at which reading on begins."""

    lines: list[bytes]
    offset: int


def preview(path: Path, size: int) -> Preview:
    """Take in lines from about 1.3 MiB of a file of `size` bytes. Raises OSError.

    The newest of rare events is looked for in 16 MiB more before its end.
    """
    lines: list[tuple[int, bytes]] = []
    with path.open("rb") as file:

        def read(start: int, num_bytes: int) -> int:
            """Whole lines of a block; the offset behind the last of them."""
            file.seek(start)
            data = file.read(num_bytes)
            begin = 0 if start == 0 else data.find(b"\n") + 1
            end = data.rfind(b"\n") + 1
            at = start + begin
            for line in data[begin:end].split(b"\n")[:-1]:
                lines.append((at, line))
                at += len(line) + 1
            return at

        tail_start = max(_HEAD_BYTES, size - _TAIL_BYTES)
        read(0, _HEAD_BYTES)
        distance = (tail_start - _HEAD_BYTES) / _NUM_BLOCKS
        for block in range(_NUM_BLOCKS):
            read(_HEAD_BYTES + int(block * distance), min(_BLOCK_BYTES, int(distance)))
        offset = read(tail_start, _TAIL_BYTES)

        search_start = max(0, tail_start - _SEARCH_BYTES)
        file.seek(search_start)
        region = file.read(tail_start - search_start)
    for kind in _RARE_KINDS:
        found = region.rfind(b'"kind":"' + kind + b'"')
        begin, end = region.rfind(b"\n", 0, max(0, found)) + 1, region.find(b"\n", max(0, found))
        if found >= 0 and begin > 0 and end >= 0:
            lines.append((search_start + begin, region[begin:end]))
    return Preview([line for _, line in sorted(dict(lines).items())], offset)
