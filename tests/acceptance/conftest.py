"""Real teachers and real images, where there are any (`real_data`)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_data import SHARED

REPOSITORY = Path(__file__).resolve().parents[2]

Ssdkd = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def teachers() -> Path:
    folder = SHARED / "teachers"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: nothing real to test on")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The test split of a data set as an image folder, unpacked once."""
    unpacked: dict[str, Path] = {}

    def root_of(name: str) -> Path:
        for needed in (name, "unpack.py"):
            if not (SHARED / "data" / needed).exists():
                pytest.skip(f"no {SHARED / 'data' / needed}: no real images to test on")
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp(name)
            command = [sys.executable, str(SHARED / "data" / "unpack.py"), name, "test", str(unpacked[name])]
            subprocess.run(command, check=True, capture_output=True)
        return unpacked[name]

    return root_of


@pytest.fixture(scope="session")
def ssdkd() -> Ssdkd:
    """Runs `ssdkd ... --json` as a process of its own and returns the document on its stdout."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "ssdkd_cli", *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    return run
