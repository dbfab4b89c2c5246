"""The file of a run's events, `events.jsonl`: read from its end, and opened for those that are to come."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from stages.errors import FileError, MachineError
from stages.events import EventLog, RunResumed, RunStarted

_BLOCK_BYTES = 1 << 16


class EventFile:
    """Everything that a run has told. Making this object touches no file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def newest_first(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """Events, of the given kinds or of all, from the last to the first.

        Those that a resumption supersedes are left out. A file that is not there holds none. Raises FileError for one
        that cannot be read.
        """
        marks = [kind.encode() for kind in (*kinds, RunResumed.kind)] if kinds else []
        highest_seq = math.inf
        try:
            for line in lines_newest_first(self.path):
                if marks and not any(mark in line for mark in marks):
                    continue  # most lines are passed over without parsing them
                event = parse_event(line)
                if event is None or event["seq"] > highest_seq:
                    continue
                if not kinds or event["kind"] in kinds:
                    yield event
                if event["kind"] == RunResumed.kind and isinstance(event.get("checkpoint_seq"), int):
                    highest_seq = min(highest_seq, event["checkpoint_seq"])
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(error) from error

    def last(self, *kinds: str) -> dict[str, Any] | None:
        """The newest event (of the given kinds), or None where there is none. Raises FileError."""
        return next(self.newest_first(*kinds), None)

    def first(self) -> dict[str, Any] | None:
        """The `run_started` event, or None where the file does not begin with it. Raises FileError."""
        try:
            with self.path.open("rb") as file:
                event = parse_event(file.readline())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from error
        return event if event is not None and event["kind"] == RunStarted.kind else None

    def _unreadable(self, error: OSError) -> FileError:
        return FileError(
            f"cannot read {self.path}: {error.strerror or error}", hint="check what it is, and its permissions"
        )

    @contextmanager
    def appending(self, *, after_seq: int = 0) -> Iterator[EventLog]:
        """What writes the next events, for the one process that has the run's lock.

        Their seq goes on where both the file and `after_seq`, a checkpoint's, have been; in a file without an event it
        is 0. Raises MachineError where the file cannot be written.
        """
        try:
            file = self._open_for_appending()
        except OSError as error:
            raise MachineError(
                f"cannot write {self.path}: {error.strerror or error}", hint="check the folder's permissions"
            ) from error
        last = self.last()
        with file:
            yield EventLog(file, next_seq=0 if last is None else max(int(last["seq"]), after_seq) + 1)

    def _open_for_appending(self) -> IO[bytes]:
        """The file, unbuffered. A torn last line is closed, or dropped where it is all there is."""
        file = self.path.open("a+b", buffering=0)
        if self.last() is None:
            file.truncate(0)
            return file
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
        return file


def lines_newest_first(path: Path) -> Iterator[bytes]:
    """The whole lines of a file from the last to the first, without reading more of it than is asked for.

    What follows the last newline is a torn line and passed over. Lines come without their newline.
    """
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        tail = b""  # what was read of a line whose beginning lies in an earlier block
        is_torn = True  # until the last newline is seen
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            tail, *lines = (file.read(size) + tail).split(b"\n")
            if lines and is_torn:
                lines.pop()
                is_torn = False
            yield from reversed(lines)
        if not is_torn:
            yield tail


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line of `events.jsonl`, or None where the line holds none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return None
    return event if isinstance(event.get("seq"), int) else None
