"""How much of the machine's memory a new process can have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a process in a container the limits of its control group (version 2)."""


@dataclass(frozen=True)
class MachineMemory:
    """Main memory [bytes]: all of it, and what is left for more; in a container, of what it is granted."""

    total: int
    available: int


def machine_memory(meminfo: Path = Path("/proc/meminfo"), control_group: Path = _CONTROL_GROUP) -> MachineMemory | None:
    """The memory of the machine, or of the container; None where the system does not say (Linux does)."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        found = MachineMemory(kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024)
    except (OSError, ValueError, KeyError, IndexError):
        return None
    try:
        limit, used = (
            int((control_group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # no limit, "max", or an older kernel's control groups
        return found
    return MachineMemory(min(found.total, limit), min(found.available, max(0, limit - used)))
