"""What can go wrong because of what the user gave us, named by what they can do about it.

A traceback is always a bug, our own or of code that we were given to run: everything else that a user can cause is
one of these. The command line maps each to an exit code (`ssdkd_cli.diagnostics`); nothing here knows about terminals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SsdkdError(Exception):
    """A failure the user can act on: `message` says what is wrong, the value and where; `hint` what to do."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One fault of a configuration, and what to do about it."""

    message: str
    hint: str | None = None


class ConfigError(SsdkdError):
    """Wrong usage or settings. Carries all problems of one configuration at once."""

    def __init__(self, message: str, *, hint: str | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems) or (Problem(message, hint),)


class FileError(SsdkdError):
    """A file that is missing, unreadable, damaged, or does not fit what it is needed for."""


class NotDownloadedError(FileError):
    """A data set that could be downloaded is not there, or not whole."""


class MachineError(SsdkdError):
    """The machine lacks something: a device, a library, disk space before the start."""


class StorageError(SsdkdError):
    """A file could not be written while the run was going on (disk full, permission lost)."""


class DivergedError(SsdkdError):
    """Training produced NaN or infinity, or the buffer collapsed to one class."""


class MisuseError(RuntimeError):
    """What `stages.api` offers was called otherwise than it says: a bug of the code that called it, told with its place
    there."""


class RunInterrupted(KeyboardInterrupt):
    """A run was ended without saving: `message` says what is kept of it, `hint` how it goes on."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
