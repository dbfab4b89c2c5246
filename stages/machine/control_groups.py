"""What Linux's control groups leave to this process: those of a container, or of a job of a scheduler."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CACHED = re.compile(r"^(?:inactive_file|active_file|slab_reclaimable) (\d+)$", re.MULTILINE)
"""Lines of memory.stat for what the kernel takes back where memory is needed: caches of files [bytes]."""


@dataclass(frozen=True)
class ControlGroups:
    """The groups that a process is in, of version 2 or 1: every group limits those below it, too."""

    mount: Path = Path("/sys/fs/cgroup")
    membership: Path = Path("/proc/self/cgroup")

    def cpu_quota(self) -> float:
        """CPU time a second of time [CPUs]; infinite without a limit."""
        return min((_cpu_quota(folder) for folder in self._folders("cpu")), default=math.inf)

    def memory_limits(self) -> list[tuple[int, int]]:
        """Limit, and what of it is left [bytes], of each group that has one."""
        return [found for folder in self._folders("memory") if (found := _memory_limit(folder)) is not None]

    def _folders(self, controller: str) -> Iterator[Path]:
        """The folders of the groups that limit what a controller gives, the innermost first."""
        yield self.mount  # a container may see its own group there, and be told a path that it does not see
        for line in _text(self.membership).splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = self.mount / controller if controllers else self.mount
            folder = top / path.lstrip("/")
            yield folder
            yield from (above for above in folder.parents if above.is_relative_to(top))


OWN_GROUPS = ControlGroups()
"""The control groups of this process."""


def _cpu_quota(folder: Path) -> float:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    try:
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (ValueError, ZeroDivisionError):  # "max", or no limits here
        return math.inf


def _memory_limit(folder: Path) -> tuple[int, int] | None:
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit, used = int(_text(folder / limit_name)), int(_text(folder / used_name))
        except ValueError:  # "max", or no limits here
            continue
        cached = sum(map(int, _CACHED.findall(_text(folder / "memory.stat"))))  # the kernel gives that back
        return limit, max(0, limit - used + cached)
    return None


def _text(file: Path) -> str:
    """What is in a file; nothing where there is none, or it may not be read."""
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
