"""Runs as a trainer leaves them, written without one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.events import ControlAcknowledged, Event, EventLog, RunFinished, RunStarted
from stages.run_directory import RunDirectory

STARTED: dict[str, Any] = {
    "run": "a-run",
    "command": "run",
    "preset": "digits",
    "stages": ["inversion", "distillation", "evaluation"],
    "epochs": 40,
    "warmup_epochs": 4,
    "seed": 0,
    "device": "cpu",
    "precision": "fp32",
    "task": "classification",
    "num_classes": 10,
    "class_names": None,
    "image_shape": [1, 8, 8],
    "teacher": "resnet20",
    "student": "resnet20",
    "capacity": 100,
    "inversion_steps": 5,
    "distillation_steps": 4,
}


def started(**changes: Any) -> RunStarted:
    return RunStarted(**STARTED | changes)


def finished(status: str = "done", **results: Any) -> RunFinished:
    summary = {"run": "a-run", "status": status, "teacher": None, "student": None, "agreement": None, **results}
    return RunFinished(status=status, message=status, summary=summary)


def acknowledged(
    action: str, *, request_id: str = "1", accepted: bool = True, message: str = ""
) -> ControlAcknowledged:
    return ControlAcknowledged(id=request_id, action=action, accepted=accepted, message=message)


def append_events(
    run: RunDirectory,
    events: Iterable[Event],
    *,
    next_seq: int | None = None,
    epoch: int = 1,
    time_s: float = 1_700_000_000.0,
) -> None:
    """What a run tells next; its seq goes on from the last event where it is not given."""
    if next_seq is None:
        last = run.events.last()
        next_seq = 0 if last is None else last["seq"] + 1
    with run.events_file.open("a", encoding="utf-8") as file:
        log = EventLog(file, next_seq=next_seq, clock=lambda: time_s)
        for event in events:
            log.emit(event, epoch=epoch)


def make_run(path: Path, *events: Event, config: str = "[run]\nseed = 0\n") -> RunDirectory:
    run = RunDirectory.create(path, "unused")
    run.config_file.write_text(config)
    append_events(run, events)
    return run
