"""Event files as a trainer writes them, and as nobody should: lines by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from run_files import started

from stages import events
from stages.events import Event, to_line
from stages.run_directory import RunDirectory

TIME_S = 1_700_000_000.0


OF_THE_SCRIPT: dict[str, Any] = {
    "epochs": 10,
    "warmup_epochs": 2,
    "num_classes": 3,
    "class_names": ["cat", "dog", "emu"],
    "teacher": "wrn16_2",
    "student": "wrn10_1",
}


def run_started(**changes: Any) -> events.RunStarted:
    return started(**OF_THE_SCRIPT | changes)


def buffer_state(size: int = 30) -> events.BufferState:
    return events.BufferState(
        size=size,
        capacity=100,
        class_counts=[10, 5, size - 15],
        difficulty={"counts": [size] + [0] * 9, "edges": [index / 10 for index in range(11)]},
        priority={
            "min": 0.0,
            "mean": 0.5,
            "max": 2.0,
            "effective_sample_size": 0.9 * size,
            "counts": [1, size - 1],
            "edges": [0.0, 1.0, 2.0],
        },
        age={"min": 0, "mean": 1.5, "max": 3},
    )


def device(total_s: float, name: str = "cpu") -> events.Device:
    seconds = {"inversion": 0.25 * total_s, "distillation": 0.5 * total_s, "evaluation": 0.0, "total": total_s}
    return events.Device(device=name, seconds=seconds, utilisation=0.5, mem_mib=512.0, images_per_s=1000.0)


def evaluation(top1: float | None = 0.9, agreement: float = 0.8) -> events.Evaluation:
    real = None
    if top1 is not None:
        real = {role: {"top1": top1, "loss": 0.1, "num_samples": 7} for role in ("student", "teacher")}
    return events.Evaluation(real=real, synthetic={"agreement": agreement, "agreement_by_chance": 0.125})


def samples(epoch: int = 4) -> events.Samples:
    tiles = [{"class": index, "probability": 0.9, "priority": 1.0 - index / 10} for index in range(3)]
    return events.Samples(picture=f"samples/epoch-{epoch:06d}.png", tiles=tiles)


def an_epoch(*, total_s: float, is_warmup: bool = False, loss: float = 1.0) -> list[Event]:
    """All that a run tells of one epoch, with `total_s` seconds so far at its end."""
    steps = [] if is_warmup else range(4)
    return [
        events.StageStarted(stage="inversion"),
        events.InversionStep(step=4, num_steps=5, loss=10 * loss, loss_bn=loss, loss_task=0.5, loss_adversarial=0.25),
        events.StageFinished(stage="inversion", seconds=1.0),
        events.StageStarted(stage="distillation"),
        *(events.DistillationStep(step=step, loss=loss + step, lr=0.1, agreement=0.5) for step in steps),
        events.StageFinished(stage="distillation", seconds=2.0),
        events.StageStarted(stage="evaluation"),
        events.StageFinished(stage="evaluation", seconds=0.0),
        buffer_state(),
        device(total_s),
    ]


def lines_of(told: Iterable[tuple[Event, int]], *, seq: int = 0, time_s: float = TIME_S) -> list[str]:
    """Events with their epochs as lines, a second apart."""
    return [
        to_line(event, seq=seq + index, epoch=epoch, time_s=time_s + index) for index, (event, epoch) in enumerate(told)
    ]


def whole_run(epochs: int = 10) -> list[tuple[Event, int]]:
    """A run of so many epochs, the first two of them warm-up: a second each; the others take three."""
    told: list[tuple[Event, int]] = [(run_started(epochs=epochs), 0)]
    total_s = 0.0
    for epoch in range(1, epochs + 1):
        total_s += 1.0 if epoch <= 2 else 3.0
        told += [(event, epoch) for event in an_epoch(total_s=total_s, is_warmup=epoch <= 2, loss=1 / epoch)]
    return told


def run_of_lines(path: Path, lines: Iterable[str | bytes]) -> RunDirectory:
    """A run that has told these lines, whatever they are; `run_files.make_run` makes one of events."""
    path.mkdir(parents=True)
    run = RunDirectory(path)
    run.events_file.write_bytes(b"".join(line.encode() if isinstance(line, str) else line for line in lines))
    return run


def append(run: RunDirectory, lines: Iterable[str]) -> None:
    with run.events_file.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def raw_line(**fields: Any) -> str:
    """A line by hand."""
    return json.dumps({"schema": 1, "time_s": TIME_S, "epoch": 1, **fields}) + "\n"


def damage(line: str, rng: random.Random) -> bytes:
    """A line with a field lost or of another type, at any depth, or with a byte changed."""
    values = [
        None,
        True,
        -1,
        0,
        1e308,
        10**30,
        "",
        "\x1b[2J",
        [],
        [None],
        {},
        {"counts": [1], "edges": [0, 1e999]},
        [[1]],
    ]
    event = place = json.loads(line)
    field = rng.choice(list(place))
    while isinstance(place[field], dict | list) and place[field] and rng.random() < 0.7:
        place = place[field]
        field = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    if rng.random() < 0.3:
        del place[field]
    else:
        place[field] = rng.choice(values)
    text = bytearray(json.dumps(event).encode())
    if rng.random() < 0.2:
        text[rng.randrange(len(text))] = rng.randrange(256)
    return bytes(text) + b"\n"
