"""A run of any length, written without training: what a long run's `events.jsonl` holds, in the true proportions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

from stages.buffer.statistics import NUM_DIFFICULTY_BINS, NUM_PRIORITY_BINS
from stages.events import (
    BufferState,
    CheckpointSaved,
    Device,
    DistillationStep,
    Evaluation,
    Event,
    InversionStep,
    RunStarted,
    StageFinished,
    StageStarted,
    to_line,
)

INVERSION_STEPS, DISTILLATION_STEPS = 5, 400
_NUM_CLASSES = 100


def started(epochs: int) -> RunStarted:
    return RunStarted(
        run="generated",
        command="run",
        preset="cifar100-wrn",
        stages=("inversion", "distillation", "evaluation"),
        epochs=epochs,
        warmup_epochs=0,
        seed=0,
        device="cuda:0",
        precision="bf16",
        task="classification",
        num_classes=_NUM_CLASSES,
        class_names=None,
        image_shape=(3, 32, 32),
        teacher="wrn40_2",
        student="wrn16_1",
        capacity=50_000,
        inversion_steps=INVERSION_STEPS,
        distillation_steps=DISTILLATION_STEPS,
    )


def epoch_events(epoch: int) -> Iterator[Event]:
    """Every step of one epoch is told, with values that fall and tremble."""
    decay = math.exp(-epoch / 400)
    yield StageStarted(stage="inversion")
    for step in range(INVERSION_STEPS):
        loss = 40 * decay + math.sin(epoch * 7 + step)
        yield InversionStep(
            step=step,
            num_steps=INVERSION_STEPS,
            loss=10 * loss,
            loss_bn=loss,
            loss_task=decay,
            loss_adversarial=0.1 * decay,
        )
    yield StageFinished(stage="inversion", seconds=0.61)
    yield StageStarted(stage="distillation")
    for step in range(DISTILLATION_STEPS):
        loss = decay + 0.1 * math.sin(epoch * 3 + step)
        yield DistillationStep(step=step, loss=loss, lr=0.1 * decay, agreement=1 - 0.5 * decay)
    yield StageFinished(stage="distillation", seconds=2.07)
    yield BufferState(
        size=50_000,
        capacity=50_000,
        class_counts=[500 + (epoch * index) % 17 for index in range(_NUM_CLASSES)],
        difficulty={
            "counts": [5000 + index for index in range(NUM_DIFFICULTY_BINS)],
            "edges": [index / NUM_DIFFICULTY_BINS for index in range(NUM_DIFFICULTY_BINS + 1)],
        },
        priority={
            "min": 0.0,
            "mean": decay,
            "max": 4 * decay,
            "effective_sample_size": 50_000 * decay,
            "counts": [3000 + index for index in range(NUM_PRIORITY_BINS)],
            "edges": [4 * decay * index / NUM_PRIORITY_BINS for index in range(NUM_PRIORITY_BINS + 1)],
        },
        age={"min": 0, "mean": 95.5, "max": 195},
    )
    yield Device(
        device="cuda:0",
        seconds={"inversion": 0.61 * epoch, "distillation": 2.07 * epoch, "evaluation": 0.1, "total": 2.7 * epoch},
        utilisation=0.93,
        mem_mib=4321.5,
        images_per_s=48_000.0,
    )
    if epoch % 20 == 0:
        metrics = {"top1": 1 - 0.5 * decay, "top5": 0.95, "loss": decay, "num_samples": 10_000}
        yield Evaluation(real={"student": metrics, "teacher": metrics}, synthetic={"agreement": 0.8})
        yield CheckpointSaved(checkpoint=f"checkpoints/epoch-{epoch:06d}.safetensors")


def events(num_events: int) -> Iterator[tuple[Event, int]]:
    """So many events with their epochs."""
    per_epoch = sum(1 for _ in epoch_events(1))
    epochs = max(1, -(-num_events // per_epoch))
    yield started(epochs), 0
    told = 1
    for epoch in range(1, epochs + 1):
        for event in epoch_events(epoch):
            if told >= num_events:
                return
            yield event, epoch
            told += 1


def write_run(path: Path, num_events: int) -> None:
    """A run directory with these events."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text("[run]\nseed = 0\n", encoding="utf-8")
    began_s = time.time() - 0.01 * num_events
    with (path / "events.jsonl").open("w", encoding="utf-8", buffering=1 << 20) as file:
        for seq, (event, epoch) in enumerate(events(num_events)):
            file.write(to_line(event, seq=seq, epoch=epoch, time_s=round(began_s + 0.01 * seq, 3)))
