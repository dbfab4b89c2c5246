"""Python, or `ssdkd`, in a process of its own: a failure shows what it said, and a process that hangs is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 600
"""A process that takes longer hangs; even a busy machine is faster."""


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def run_python(
    *arguments: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    told: str = "",
    expected_code: int | None = 0,
    patience_s: float = PATIENCE_S,
) -> Result:
    """`python ARGUMENTS` with `told` on its stdin; `environment` is added to ours.

    The exit code must be `expected_code`; None: any is.
    """
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (environment or {}),
        input=told,
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    assert expected_code in (None, result.code), f"ended with {result.code}\n{result.out}{result.err}"
    return result


def run_ssdkd(*arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> Result:
    """Type `ssdkd ...` off a terminal; its exit code is for the caller to look at."""
    return run_python("-m", "ssdkd_cli", *arguments, cwd=cwd, environment=environment, expected_code=None)
