"""How long a run will take: a few of its steps are made and timed, and nothing of them is kept."""

from __future__ import annotations

import gc
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from stages.buffer.file import BufferContents
from stages.config import with_values
from stages.events import DistillationStep, Event, InversionStep
from stages.machine.device import (
    num_usable_cpus,
    out_of_memory_is_told,
    resident_memory_mib,
    resolve_acceleration,
    waited_for_cpu_s,
)
from stages.machine.memory import machine_memory
from stages.planning.beginning import build_run, set_up_stages
from stages.planning.plan import Plan
from stages.run import Run
from stages.schedule import Schedule
from stages.stage import Stage

_TIMED_STAGES = ("inversion", "distillation")
"""Stages of which a few steps are timed, and the rest reckoned from these."""

_MOST_STEPS = 5
"""Steps of a synthesis call, and updates of the student, that are timed at most. The first of them does what is done
once."""

_NUM_TRIALS = {"cuda": 2}
"""How often all of them are made, by kind of device: the last time counts. On a GPU libraries are loaded and kernels
searched the first time, which may take longer than all steps. Elsewhere it is once."""

_MOST_VIEWS = 2
"""Cached views of an image that are timed at most; one alone cannot be mixed."""

_MUCH_WAITING = 0.1
"""Share of the timed seconds in which other programs had the processor, from which on the user is told."""

_NUM_WARMUP_EPOCHS = 2
"""Epochs of warm-up in the trial. Inversion is adversarial from the last of them on, so there is one before that."""

_NUM_LEARNING_EPOCHS = 2
"""Epochs in which the student learns in the trial: in the first one with hints if the run has any, then without."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take, found out on the machine and by the networks it will run with."""

    seconds: dict[str, float]
    """Seconds of inversion and of distillation, as far as the run has them, uncompiled and one after the other."""
    memory_mib: float | None
    """What the process has taken for its steps: on the device for CUDA, resident otherwise [MiB].

    What recorded steps of a GPU keep for themselves, and the hold-out, are not in it.
    """
    not_timed: tuple[str, ...]
    """What `seconds` leave out: the other stages, and "acceleration" where compiling or recording takes time and saves
    more."""
    warnings: tuple[str, ...]
    """Why the run may take another time, or come to no end."""

    def describe(self) -> dict[str, Any]:
        """For people and for `--json`."""
        seconds = {"total": sum(self.seconds.values())} | self.seconds
        return {
            "estimated_seconds": {name: round(value, 3) for name, value in seconds.items()},
            "not_estimated": list(self.not_timed),
            "memory_mib": self.memory_mib,
        }


@out_of_memory_is_told()
def estimate(planned: Plan) -> Estimate:
    """Make a few steps of each kind, in memory, and reckon what all of them will take.

    They are neither compiled nor recorded, which takes longer than to make them. Raises MachineError where the device
    runs out of memory, as the run would.
    """
    trial = _shortened(planned)
    for _ in range(_NUM_TRIALS.get(planned.device.type, 1)):
        gc.collect()  # the objects of the trial before refer to each other, and hold its memory
        seconds, memory_mib, warnings = _timed_stages(planned, trial)
    acceleration = resolve_acceleration(planned.config.run.acceleration, planned.device)
    return Estimate(
        seconds=seconds,
        memory_mib=memory_mib,
        not_timed=(
            *(name for name in planned.schedule.stages if name not in _TIMED_STAGES),
            *(["acceleration"] if acceleration != "eager" else []),
        ),
        warnings=(*_warnings_of_memory(planned, memory_mib), *warnings),
    )


def _timed_stages(planned: Plan, trial: Plan) -> tuple[dict[str, float], float | None, tuple[str, ...]]:
    """By a trial run: seconds of each stage of the planned one, memory taken [MiB], why it may take other time."""
    with ExitStack() as closing:
        run = build_run(trial)
        stages = set_up_stages(run, closing)
        seconds = {}
        began_s, waited_s = time.perf_counter(), waited_for_cpu_s()
        if "inversion" in stages:
            seconds["inversion"] = _inversion_seconds(planned, run, stages["inversion"])
        if "distillation" in stages:
            seconds["distillation"] = _distillation_seconds(planned, run, stages["distillation"])
        elapsed_s, waited_until_now_s = time.perf_counter() - began_s, waited_for_cpu_s()
        memory_mib = resident_memory_mib(planned.device)
    # On a GPU the processor is not what is waited for, and threads beyond the CPUs wait for each other.
    if planned.device.type != "cpu" or int(planned.config.run.threads) > num_usable_cpus():
        return seconds, memory_mib, ()
    return seconds, memory_mib, _warnings_of_waiting(waited_s, waited_until_now_s, of_s=elapsed_s)


def _warnings_of_waiting(before_s: float | None, after_s: float | None, *, of_s: float) -> tuple[str, ...]:
    """That the machine is busy, by `waited_for_cpu_s` before and after the `of_s` seconds of the trial."""
    if before_s is None or after_s is None or after_s - before_s < _MUCH_WAITING * of_s:
        return ()
    busy = (
        f"other programs had the processor for {(after_s - before_s) / of_s:.0%} of the time in which the steps were"
        " timed: on a free machine the run takes less by about as much"
    )
    return (busy,)


def _warnings_of_memory(planned: Plan, taken_mib: float | None) -> tuple[str, ...]:
    """That the full buffer will not fit beside what the process has taken: on a CPU it takes memory as it fills."""
    machine = machine_memory()
    if planned.device.type == "cuda" or machine is None or taken_mib is None:
        return ()
    needed_mib, left_mib = taken_mib + planned.footprint.buffer_mib, taken_mib + machine.available / 2**20
    if needed_mib <= left_mib:
        return ()
    doubt = (
        f"with its buffer full the run takes {needed_mib:,.0f} MiB, and {left_mib:,.0f} MiB are there for it: the"
        " system may end it without a word"
    )
    return (doubt,)


def _shortened(planned: Plan) -> Plan:
    """The same run with two kinds of epochs of a few steps."""
    config = planned.config
    short = with_values(
        config,
        {
            "run.acceleration": "eager",
            "run.log_every": 1,
            "run.epochs": _NUM_WARMUP_EPOCHS + _NUM_LEARNING_EPOCHS,
            "run.warmup_epochs": _NUM_WARMUP_EPOCHS,
            "inversion.steps": min(config.inversion.steps, _MOST_STEPS),
            "inversion.calls": 1,
            "inversion.warmup_calls": 1,
            "inversion.overlap": False,
            "distillation.steps": min(config.num_distillation_steps, _MOST_STEPS),
            "distillation.views": min(config.distillation.views, _MOST_VIEWS),
            "distillation.mix_share": min(config.distillation.mix_share, 1 - 1 / _MOST_VIEWS),
            "distillation.hint_share": 1 / _NUM_LEARNING_EPOCHS if config.distillation.hint_share > 0 else 0.0,
            "evaluation.num_holdout": 0,
        },
        place="a few steps",
    )
    schedule = Schedule.of(planned.launch.command, short)
    stages = tuple(name for name in schedule.stages if name in _TIMED_STAGES)
    few = 2 * config.distillation.batch_size
    return replace(
        planned,
        config=short,
        schedule=replace(schedule, stages=stages),
        evaluation_data=None,
        stored=None if planned.stored is None else _first_rows(planned.stored, few),
    )


def _first_rows(rows: BufferContents, num: int) -> BufferContents:
    few: dict[str, Any] = {name: array[:num] for name, array in rows.arrays().items()}
    return replace(rows, **few)


@dataclass(frozen=True, kw_only=True)
class _EpochTimes:
    """What one epoch of a stage took."""

    step_s: float
    """Seconds of a step."""
    beginning_s: float
    """Seconds before the first step, with what only the first of all does."""
    end_s: float
    """Seconds of all steps, and of what comes after them."""


def _inversion_seconds(planned: Plan, run: Run, stage: Stage[Any]) -> float:
    """Seconds of all synthesis calls of the run, with the insertion of their images."""
    schedule, num_steps = planned.schedule, planned.config.inversion.steps
    epochs = range(1, schedule.epochs + 1)
    kinds = {schedule.is_adversarial(epoch) for epoch in epochs}
    call_s = {}
    for is_adversarial in sorted(kinds):
        times = _timed(run, stage, run.schedule.epochs if is_adversarial else 1, InversionStep)
        call_s[is_adversarial] = times.end_s + (num_steps - run.config.inversion.steps) * times.step_s
    return sum(schedule.num_calls(epoch) * call_s[schedule.is_adversarial(epoch)] for epoch in epochs)


def _distillation_seconds(planned: Plan, run: Run, stage: Stage[Any]) -> float:
    """Seconds of all updates of the run, and of the teacher's look at all views that are cached."""
    config, schedule = planned.config, planned.schedule
    first_epoch, last_epoch = run.schedule.warmup_epochs + 1, run.schedule.epochs
    times = _timed(run, stage, first_epoch, DistillationStep)
    num_updates = schedule.distillation_epochs * config.num_distillation_steps
    num_hinted = math.ceil(config.distillation.hint_share * num_updates)
    updates_s = num_hinted * times.step_s
    if num_hinted < num_updates:
        later = _timed(run, stage, last_epoch, DistillationStep) if num_hinted > 0 else times
        updates_s += (num_updates - num_hinted) * later.step_s
    if config.distillation.views == 0:
        return updates_s
    view_s = times.beginning_s / (run.buffer.size * run.config.distillation.views)
    num_at_first, num_later = planned.footprint.num_buffered, 0
    if "inversion" in schedule.stages:
        num_later = schedule.distillation_epochs * schedule.calls * config.inversion.batch_size
        num_at_first = min(num_at_first, planned.footprint.num_images - num_later)
    return updates_s + (num_at_first + num_later) * config.distillation.views * view_s


def _timed(run: Run, stage: Stage[Any], epoch: int, kind: type[Event]) -> _EpochTimes:
    """Run an epoch of a stage, and time it by the events of its steps; each waits for the device."""
    told_s: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, kind):
            told_s.append(time.perf_counter())

    run.epoch, run.emit = epoch, listen
    began_s = time.perf_counter()
    stage.run_epoch(run)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    ended_s = time.perf_counter()
    first_s = told_s[0] if told_s else ended_s  # a method of others' may tell nothing: the whole is as one step
    gaps_s = [later_s - earlier_s for earlier_s, later_s in pairwise(told_s)]
    step_s = median(gaps_s) if gaps_s else first_s - began_s
    return _EpochTimes(
        step_s=step_s,
        beginning_s=max(0.0, first_s - began_s - step_s),
        end_s=ended_s - first_s + step_s,
    )
