"""Asking a running run to do something: requests in `control.jsonl`, answers in `events.jsonl`.

Whoever asks appends one line, `{"id": ..., "action": ...}`. The trainer reads them at its safe points and
answers each with a `control_acknowledged` event that carries the id. The trainer waits for
nobody; whoever asks may wait for the answer.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from stages.errors import ConfigError, FileError
from stages.events import ControlAcknowledged
from stages.paths import in_shell
from stages.run_directory import LIVE_STATUSES, RESUMABLE_STATUSES, RunDirectory
from stages.run_directory.event_file import parse_event
from stages.run_directory.line_tail import Bite, Tail

ACTIONS = ("pause", "resume", "checkpoint", "stop")

_POLL_S = 0.1
# An answer may come before anyone waits for it: so much of the events before the wait is looked through, too.
_LOOK_BACK_BYTES = 1 << 20


@dataclass(frozen=True)
class Request:
    """What somebody asked of the run. The action may be one that this version does not know."""

    id: str
    action: str


@dataclass(frozen=True)
class Acknowledgement:
    """The run's answer to a request."""

    accepted: bool
    message: str


def send_request(run: RunDirectory, action: str) -> str:
    """Append a request to the run's control file; returns the id that its acknowledgement will carry.

    Raises ConfigError for an unknown action or a run that no process is working on, FileError where the
    control file cannot be written.
    """
    if action not in ACTIONS:
        near = get_close_matches(action, ACTIONS, n=1)
        raise ConfigError(
            f"unknown action `{action}`",
            hint=f"did you mean `{near[0]}`?" if near else f"actions: {', '.join(ACTIONS)}",
        )
    refuse_idle(run, action)
    request_id = secrets.token_hex(8)
    line = json.dumps({"id": request_id, "action": action}).encode() + b"\n"
    try:
        descriptor = os.open(run.control_file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size > 0 and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # somebody's torn line must not swallow ours
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileError(
            f"cannot write {run.control_file}: {error.strerror or error}",
            hint="a run is controlled by those who may write into its directory",
        ) from error
    return request_id


def wait_for_acknowledgement(
    run: RunDirectory,
    request_id: str,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Acknowledgement | None:
    """The answer to a request, or None where none comes within `timeout_s` or the run ends without one."""
    deadline_s = clock() + timeout_s
    tail = Tail(run.events_file, offset=max(0, _size(run.events_file) - _LOOK_BACK_BYTES))
    while True:
        # Liveness before the lines: an answer written just before the end is then still found.
        is_last_look = not run.is_alive() or clock() >= deadline_s
        for line in (line for bite in _bites(tail) for line in bite.lines):
            event = parse_event(line)
            if event and event["kind"] == ControlAcknowledged.kind and event.get("id") == request_id:
                return Acknowledgement(bool(event.get("accepted")), str(event.get("message") or ""))
        if is_last_look:
            return None
        sleep(_POLL_S)


def refuse_idle(run: RunDirectory, action: str) -> None:
    """Raise ConfigError where no process works on the run, so that nobody would answer."""
    status = run.status()
    if status in LIVE_STATUSES:
        return
    path = in_shell(run.path)
    goes_on = f"`ssdkd run --resume {path}` goes on with it"
    hint = goes_on if status in RESUMABLE_STATUSES else f"`ssdkd runs show {path}` tells more"
    raise ConfigError(f"cannot {action} {run.path}: it is not running, its status is {status}", hint=hint)


class ControlReader:
    """The trainer's end: the requests that arrived since the last look.

    Make it right after taking the run's lock. What is there by then was asked of an earlier process of the run, and is
    not carried out again by this one.
    """

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._heard: Counter[bytes] = Counter()
        self._heard_before: Counter[bytes] = Counter()
        """How often each line is still passed over. Where another file has taken the control file's place, as when an
        editor saves it, the lines that it has from the old one are no new requests."""
        self.poll()

    def poll(self) -> list[Request]:
        """New requests, oldest first; other lines are skipped. Costs one stat while nothing is new."""
        requests = []
        for bite in _bites(self._tail):
            if bite.is_replaced:
                self._heard_before = self._heard.copy()
            for line in bite.lines:
                if self._heard_before[line] > 0:
                    self._heard_before[line] -= 1
                    continue
                self._heard[line] += 1
                request = _parse_request(line)
                if request is not None:
                    requests.append(request)
        return requests


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bites(tail: Tail) -> Iterator[Bite]:
    """All that is new. A file that cannot be read has nothing: nothing that a run should end for."""
    while True:
        bite = tail.poll()
        yield bite
        if bite.is_at_end:
            return


def _parse_request(line: bytes) -> Request | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    request_id, action = fields.get("id"), fields.get("action")
    if not isinstance(request_id, str) or not isinstance(action, str):
        return None
    return Request(request_id, action)
