"""How much of the machine's memory a new process can have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a process in a container the limits of its control group (version 2)."""

_CACHED = re.compile(r"^(?:inactive_file|active_file|slab_reclaimable) (\d+)$", re.MULTILINE)
"""What of a group's memory is files that were read or written."""


@dataclass(frozen=True)
class MachineMemory:
    """Main memory [bytes]: all of it, and what is left for more; in a container, of what it is granted."""

    total: int
    available: int


def machine_memory(meminfo: Path = Path("/proc/meminfo"), control_group: Path = CONTROL_GROUP) -> MachineMemory | None:
    """The memory of the machine, or of the container; None where the system does not say (Linux does)."""
    try:
        lines = _read(meminfo).splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        found = MachineMemory(kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024)
    except (OSError, ValueError, KeyError, IndexError):
        return None
    try:
        limit, used = (int(_read(control_group / name)) for name in ("memory.max", "memory.current"))
        cached = sum(map(int, _CACHED.findall(_read(control_group / "memory.stat"))))  # the kernel gives that back
    except (OSError, ValueError):  # no limit, "max", or an older kernel's control groups
        return found
    return MachineMemory(min(found.total, limit), min(found.available, max(0, limit - used + cached)))


def _read(path: Path) -> str:
    return path.read_text(encoding="ascii")
