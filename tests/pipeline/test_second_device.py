"""What needs a device beside the CPU is tried on one that is made up, in a process that it cannot leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

RUNS = Path(__file__).with_name("runs_on_second_device.py")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of torch takes no device that is written in Python",
)
def test_runs_on_a_second_device(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "--basetemp", str(tmp_path / "runs"), str(RUNS)]
    ended = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-n", "0"],
        env=environment | {"OMP_NUM_THREADS": "1"},
        cwd=RUNS.parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
