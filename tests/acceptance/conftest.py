"""Real teachers and real images, where there are any (`real_data`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child_process import run_python
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
            run_python(SHARED / "data" / "unpack.py", name, "test", unpacked[name])
        return unpacked[name]

    return root_of


@pytest.fixture(scope="session")
def ssdkd() -> Ssdkd:
    """Runs `ssdkd ... --json` as a process of its own and returns the document on its stdout."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        done = run_python("-m", "ssdkd_cli", *arguments, "--json", cwd=REPOSITORY, patience_s=3600)
        document: dict[str, Any] = json.loads(done.out)
        return document

    return run
