"""What runs leave behind, and listeners that meddle with them at a chosen moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from same_values import assert_same
from told_events import events_of as events

from stages.checkpoint import load_checkpoint
from stages.events import Event
from stages.run_directory import RunDirectory

TENSOR_FILES = ("student.safetensors", "buffer.safetensors", "holdout.safetensors")


class KilledError(BaseException):
    """Stands for the end of the process: nobody catches it, nobody says farewell."""


class At:
    """Do something after the `nth` event of a kind, of an epoch and with fields of choice."""

    def __init__(self, kind: str, action: Callable[[], object], *, nth: int = 1, epoch: int = 0, **fields: Any) -> None:
        self.has_happened = False
        self._kind, self._action, self._epoch, self._fields = kind, action, epoch, fields
        self._left = nth

    def __call__(self, event: Event, epoch: int) -> None:
        if event.kind != self._kind or self._epoch not in (0, epoch):
            return
        if any(getattr(event, name) != value for name, value in self._fields.items()):
            return
        self._left -= 1
        if self._left == 0:
            self.has_happened = True
            self._action()


def kill() -> None:
    raise KilledError


def ask(path: Path, action: str, request_id: str = "someone") -> None:
    """Append a request as another process would."""
    with RunDirectory(path).control_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": request_id, "action": action}) + "\n")


def stop_at(path: Path, kind: str = "stage_finished", **moment: Any) -> At:
    """Ask a run to stop, at a moment told as to `At`."""
    return At(kind, lambda: ask(path, "stop"), **moment)


def tensor_files(path: Path) -> dict[str, bytes]:
    """The bytes of a run's tensor files, checkpoints apart."""
    return {name: (path / name).read_bytes() for name in TENSOR_FILES if (path / name).exists()}


def all_files(path: Path) -> dict[str, bytes]:
    """The bytes of a run's tensor files and of its last checkpoint."""
    checkpoint = RunDirectory(path).latest_checkpoint()
    assert checkpoint is not None
    return tensor_files(path) | {checkpoint.name: checkpoint.read_bytes()}


def last_state(path: Path) -> dict[str, Any]:
    """The state in the last checkpoint, without the place in the event log."""
    checkpoint = RunDirectory(path).latest_checkpoint()
    assert checkpoint is not None
    state = load_checkpoint(checkpoint)
    del state["seq"]
    return state


def assert_same_outcome(one: Path, other: Path) -> None:
    """Two runs ended in the same student, buffer, hold-out and state, bit for bit."""
    assert tensor_files(one) == tensor_files(other)
    assert_same(last_state(one), last_state(other))


def warnings(path: Path) -> list[dict[str, Any]]:
    """What a run warned of, but for its teacher, who knows nothing, and for what the CPU at hand is good at."""
    expected = ("better than chance", "run.precision is bf16")
    return [event for event in events(path, "warning") if not any(text in event["message"] for text in expected)]


def lines(path: Path) -> list[dict[str, Any]]:
    """Every line of the event log, superseded ones too. Fails on NaN, which is not JSON."""

    def refuse(literal: str) -> None:
        raise AssertionError(f"{literal} is not JSON")

    texts = (path / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(text, parse_constant=refuse) for text in texts]
