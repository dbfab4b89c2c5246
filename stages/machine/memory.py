"""How much of the machine's memory a new process can have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.machine.control_groups import OWN_GROUPS, ControlGroups


@dataclass(frozen=True)
class MachineMemory:
    """Main memory [bytes]: all of it, and what is left for more; in a container or a job, of what it is granted."""

    total: int
    available: int


def machine_memory(meminfo: Path = Path("/proc/meminfo"), groups: ControlGroups = OWN_GROUPS) -> MachineMemory | None:
    """The memory of the machine, or of what is granted of it; None where the system does not say (Linux does)."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None
    for limit, left in groups.memory_limits():
        total, available = min(total, limit), min(available, left)
    return MachineMemory(total, available)
