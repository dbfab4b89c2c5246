"""What is left of main memory, of the machine or of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.machine.control_groups import ControlGroups
from stages.machine.memory import MachineMemory, machine_memory

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\nHugePages_Total:   0\n"
CACHED_KIB = 50
STAT = "anon 5\nfile 999999\ninactive_file 20480\nactive_file 10240\nslab_reclaimable 20480\nslab 99\n"
"""What the kernel gives back of a group's memory: 20 + 10 + 20 KiB."""


@pytest.fixture
def memory(tmp_path: Path):
    def find(meminfo: str = MEMINFO, **limits: str) -> MachineMemory | None:
        (tmp_path / "meminfo").write_text(meminfo)
        for name, text in limits.items():
            (tmp_path / f"memory.{name}").write_text(text)
        return machine_memory(tmp_path / "meminfo", ControlGroups(tmp_path, tmp_path / "nowhere"))

    return find


def test_of_a_machine(memory) -> None:
    assert memory() == MachineMemory(total=1000 * 1024, available=600 * 1024)
    assert memory(max="max\n", current="5\n", stat=STAT) == memory()


@pytest.mark.parametrize(
    ("limit_kib", "used_kib", "total_kib", "available_kib"),
    [(400, 100, 400, 300), (400, 500, 400, 0), (5000, 100, 1000, 600), (900, 100, 900, 600)],
)
def test_of_a_container_what_it_is_granted(memory, limit_kib, used_kib, total_kib, available_kib) -> None:
    found = memory(max=str(limit_kib * 1024), current=str((used_kib + CACHED_KIB) * 1024), stat=STAT)
    assert found == MachineMemory(total=total_kib * 1024, available=available_kib * 1024)


@pytest.mark.parametrize("text", ["", "MemTotal: 5 kB", "MemTotal: x kB\nMemAvailable: 3 kB"])
def test_where_the_system_does_not_say(memory, tmp_path: Path, text: str) -> None:
    assert memory(text) is None
    assert machine_memory(tmp_path / "nowhere") is None


def test_of_this_machine() -> None:
    found = machine_memory()
    if not Path("/proc/meminfo").exists():
        assert found is None
    else:
        assert found is not None
        assert 0 < found.available <= found.total
