"""Limits of control groups, where containers and schedulers set them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stages.machine.control_groups import ControlGroups

STAT = "anon 5\nfile 999999\ninactive_file 20480\nactive_file 10240\ntotal_inactive_file 99999\n"
CACHED = 20480 + 10240


@pytest.fixture
def groups(tmp_path: Path):
    def make(membership: str, files: dict[str, str]) -> ControlGroups:
        (tmp_path / "own").write_text(membership)
        for name, text in files.items():
            file = tmp_path / "mount" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return ControlGroups(tmp_path / "mount", tmp_path / "own")

    return make


def test_no_limits(groups) -> None:
    for found in (groups("0::/\n", {}), groups("", {}), ControlGroups(Path("nowhere"), Path("nowhere"))):
        assert (found.cpu_quota(), found.memory_limits()) == (math.inf, [])


def test_the_group_of_a_job_and_those_above_it(groups) -> None:
    """As Slurm and systemd nest them: what is at the top is the machine's."""
    found = groups(
        "0::/system.slice/job_7/step_0\n",
        {
            "system.slice/job_7/cpu.max": "150000 100000",
            "system.slice/job_7/step_0/cpu.max": "max 100000",
            "system.slice/job_7/memory.max": "1000000",
            "system.slice/job_7/memory.current": "300000",
            "system.slice/job_7/memory.stat": STAT,
            "system.slice/job_7/step_0/memory.max": "max",
            "system.slice/job_7/step_0/memory.current": "200000",
            "system.slice/memory.max": "5000000",
            "system.slice/memory.current": "6000000",
            "other.slice/cpu.max": "1000 100000",
            "other.slice/memory.max": "5",
            "other.slice/memory.current": "5",
        },
    )
    assert found.cpu_quota() == 1.5
    assert found.memory_limits() == [(1_000_000, 700_000 + CACHED), (5_000_000, 0)]


def test_the_first_version(groups) -> None:
    found = groups(
        "4:memory:/job\n2:cpu,cpuacct:/job/step\n1:name=systemd:/x\n",
        {
            "memory/job/memory.limit_in_bytes": "1000000",
            "memory/job/memory.usage_in_bytes": "400000",
            "memory/job/memory.stat": STAT,
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "memory/memory.usage_in_bytes": "5",
            "cpu/job/cpu.cfs_quota_us": "50000",
            "cpu/job/cpu.cfs_period_us": "100000",
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert found.cpu_quota() == 0.5
    assert found.memory_limits()[0] == (1_000_000, 600_000 + CACHED)
    assert min(found.memory_limits()) == found.memory_limits()[0]


def test_a_container_that_sees_its_own_group_at_the_top(groups) -> None:
    limits = {"cpu.max": "200000 100000", "memory.max": "900", "memory.current": "200"}
    found = groups("0::/docker/0123\n", limits)
    assert (found.cpu_quota(), found.memory_limits()[0]) == (2.0, (900, 700))
