"""Who writes a run: the one process that holds an flock on its `run.lock`, which the kernel frees with the process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.errors import ConfigError, MachineError
from stages.paths import in_shell, json_object

# Whoever asks whether it is held holds the lock for some microseconds: the owner-to-be waits that out.
_PATIENCE_S = 1.0
_RETRY_S = 0.02


class RunLock:
    """The lock of the run in whose folder the file is. Making this object touches no file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one process that writes this run.

        Raises ConfigError while another process is, MachineError where this one may not.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise MachineError(
                f"cannot write {self.path}: {error.strerror or error}",
                hint="a run goes on only for those who may write into its directory",
            ) from error
        try:
            self._take(descriptor)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since_s": round(time.time(), 3)}
            with suppress(OSError):  # for people only; a full disk is told of by the next file
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)
            yield
        finally:
            os.close(descriptor)  # frees the lock

    def _take(self, descriptor: int) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < deadline_s:
                    time.sleep(_RETRY_S)
                    continue
                run, owner = self.path.parent, self.owner()
                raise ConfigError(
                    f"{run} is being written by process {owner.get('pid', '?')} on host {owner.get('host', '?')}",
                    hint=f"`ssdkd runs stop {in_shell(run)}` stops it and saves everything",
                ) from error
            except OSError as error:
                raise MachineError(
                    f"cannot lock {self.path}: {error.strerror or error}",
                    hint="the file system must support flock; give `--out` a folder on another one",
                ) from error
            else:
                return

    def owner(self) -> dict[str, Any]:
        """`pid, host, since_s` of the process that took the lock last, for people; {} where that is not known."""
        return json_object(self.path)

    def is_held(self) -> bool:
        """Whether a process holds the lock."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        else:
            return False
        finally:
            os.close(descriptor)
