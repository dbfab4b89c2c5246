"""A run that another process works on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

from stages.run_directory import RunDirectory

HOLD = """
import pathlib, sys
from stages.run_directory import RunDirectory
with RunDirectory(pathlib.Path(sys.argv[1])).lock.held():
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(run: RunDirectory) -> Iterator[Popen[str]]:
    """The process that holds the run's lock, until it is killed or the block ends."""
    with Popen([sys.executable, "-c", HOLD, str(run.path)], stdin=PIPE, stdout=PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        yield owner
